"""The inputs on which an operation is compared with PyTorch, and the table of PyTorch's sides.

A case is a tuple of inputs, each an array, None, a number or a function of a random generator that makes an array,
and options that are passed by name and have no gradient. Sizes are odd on purpose: 1, 3, 7, 33, 97, 1023.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

ORACLES: dict[str, "Oracle"] = {}


@dataclass(frozen=True)
class Case:
    """One comparison: what to call the operation with. Floating arrays are the inputs whose gradients are compared."""

    inputs: tuple
    options: dict

    def make(self, seed: int) -> tuple[list, dict]:
        """Inputs and options for a seed; floating arrays are float64 with values that float32 holds exactly."""
        random = np.random.default_rng(seed)
        inputs = [x(random) if callable(x) else x for x in self.inputs]
        return inputs, {key: x(random) if callable(x) else x for key, x in self.options.items()}


@dataclass(frozen=True)
class Oracle:
    """PyTorch's side of an operation: a function of torch tensors, and the cases."""

    name: str
    function: Callable
    cases: tuple[Case, ...]

    def run(
        self, inputs: list, options: dict, dtype: str, output_gradient: Callable
    ) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """PyTorch's result in this dtype, and its gradient of each input, None for one that is not floating.

        `output_gradient(shape)` is the gradient of the result that they start from.
        """
        tensors = [_tensor(x, dtype, requires_grad=True) for x in inputs]
        y = self.function(*tensors, **{key: _tensor(x, dtype) for key, x in options.items()})
        gradients: list[np.ndarray | None] = [None] * len(inputs)
        if y.requires_grad:
            y.backward(torch.tensor(output_gradient(tuple(y.shape))).to(y.dtype))
            for i, x in enumerate(tensors):
                if isinstance(x, torch.Tensor) and x.requires_grad:
                    gradients[i] = _array(torch.zeros_like(x) if x.grad is None else x.grad)
        return _array(y.detach()), gradients


def _tensor(x, dtype: str, requires_grad: bool = False):
    """An array as a tensor, in this dtype if it is floating; anything else as it is."""
    if not isinstance(x, np.ndarray):
        return x
    floating = x.dtype.kind == "f"
    tensor = torch.tensor(x)
    return tensor.to(getattr(torch, dtype)).requires_grad_(requires_grad) if floating else tensor


def _array(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view("bfloat16") if x.dtype == torch.bfloat16 else x.numpy()


def case(*inputs, **options) -> Case:
    return Case(inputs, options)


def oracle(*cases: Case) -> Callable:
    """Enter the decorated function of torch tensors as the oracle of the operation of the same name."""

    def enter(function: Callable) -> Callable:
        name = function.__name__.removesuffix("_")  # `sum_` is the oracle of `sum`
        ORACLES[name] = Oracle(name, function, cases)
        return function

    return enter


def normal(*shape: int, scale: float = 1.0) -> Callable:
    """Normal numbers."""
    return lambda random: _float32(random.normal(size=shape) * scale)


def positive(*shape: int) -> Callable:
    """Numbers from 0.2 to 4."""
    return lambda random: _float32(random.uniform(0.2, 4.0, size=shape))


def integers(*shape: int, low: int = 0, high: int) -> Callable:
    """Whole numbers from low to high - 1, which repeat when there are more of them."""
    return lambda random: random.integers(low, high, size=shape)


def bytes_(*shape: int) -> Callable:
    """Numbers from 0 to 4 in uint8."""
    return lambda random: random.integers(0, 5, size=shape, dtype=np.uint8)


def booleans(*shape: int, share: float = 0.5) -> Callable:
    """True for about this share of the elements."""
    return lambda random: random.random(shape) < share


def counts(*shape: int, high: int) -> Callable:
    """Whole numbers from 0 to high - 1, as floating ones."""
    return lambda random: random.integers(0, high, size=shape).astype(np.float64)


def ties(*shape: int) -> Callable:
    """Numbers that are -1, 0 or 1, so that many are equal."""
    return lambda random: random.integers(-1, 2, size=shape).astype(np.float64)


def _float32(array) -> np.ndarray:
    return np.asarray(array, np.float32).astype(np.float64)
