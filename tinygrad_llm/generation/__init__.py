"""Generation: choosing tokens, one after the other, and showing them as text."""

from tinygrad_llm.generation.decoding import Context, Decoding, generate, generate_batch
from tinygrad_llm.generation.sampling import Sampling

__all__ = ["Context", "Decoding", "Sampling", "generate", "generate_batch"]
