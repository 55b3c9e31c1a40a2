"""Generation."""

from tinygrad_llm.generation.sampling import generate, sample

__all__ = ["generate", "sample"]
