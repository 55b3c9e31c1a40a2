"""Models."""

from tinygrad_llm.models.gpt import GPT, PRESETS, GPTConfig
from tinygrad_llm.models.language_model import LanguageModel

__all__ = ["GPT", "PRESETS", "GPTConfig", "LanguageModel"]
