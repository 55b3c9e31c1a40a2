"""A GPT laboratory in plain NumPy: every derivative written by hand."""

from tinygrad_llm import functional, kernels, methods, nn, ops
from tinygrad_llm.autograd import Function, no_grad, watch
from tinygrad_llm.errors import UserError
from tinygrad_llm.gradcheck import gradcheck
from tinygrad_llm.locator import compare, replay
from tinygrad_llm.random import manual_seed
from tinygrad_llm.tensor import Tensor

__version__ = "0.1.0"
__all__ = [
    "Function",
    "Tensor",
    "UserError",
    "compare",
    "functional",
    "gradcheck",
    "kernels",
    "manual_seed",
    "methods",
    "nn",
    "no_grad",
    "ops",
    "replay",
    "watch",
]
