"""Models."""

from tinygrad_llm.models.gpt import GPT, PRESETS, GPTConfig
from tinygrad_llm.models.heads import SequenceClassifier
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.models.llama import LLAMA_PRESETS, Llama, LlamaConfig

__all__ = [
    "GPT",
    "LLAMA_PRESETS",
    "PRESETS",
    "GPTConfig",
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "SequenceClassifier",
]
