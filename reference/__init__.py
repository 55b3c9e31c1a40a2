"""The oracle: the same operations and models in PyTorch, differentiated by its autograd. Imports nothing of ours."""

from tinygrad_llm.reference import arithmetic, layers, losses, reductions, shapes
from tinygrad_llm.reference.cases import ORACLES, Case, Oracle

__all__ = ["ORACLES", "Case", "Oracle", "arithmetic", "layers", "losses", "reductions", "shapes"]
