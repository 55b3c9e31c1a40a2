"""PyTorch's own tests of its operators and modules: the calls that it tests them with, and its results.

An OpInfo of torch.testing._internal's op_db, or a ModuleInfo of its module_db, has sample inputs, and inputs at which
an error must be raised. A call keeps its arguments flat, so that they can be PyTorch's tensors or others alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.func import functional_call
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import set_rng_seed
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

OPERATORS = {".".join(filter(None, (info.name, info.variant_test_name))): info for info in op_db}
MODULES = {info.name: info for info in module_db}


@dataclass
class Call:
    """A call's arguments one by one, tensors and others, their names, and how they belong together."""

    leaves: list
    names: list[str]
    tree: TreeSpec

    def made(self, function: Callable, leaves: list):
        """What the function gives for these leaves in the place of the call's own."""
        args, kwargs = tree_unflatten(leaves, self.tree)
        return function(*args, **kwargs)

    def arrays(self, tensor: Callable) -> list:
        """The leaves, with tensor(name, array, requires_grad) for each of PyTorch's, and NumPy's dtypes for its."""

        def made(name, x):
            if isinstance(x, torch.Tensor):
                return tensor(name, x.detach().numpy(), x.requires_grad)
            return np.dtype(str(x).removeprefix("torch.")) if isinstance(x, torch.dtype) else x

        return [made(name, x) for name, x in zip(self.names, self.leaves, strict=True)]

    def moved(self, step: float) -> "Call":
        """The same in float64, each number changed by this share of itself, up or down at random."""
        random = np.random.default_rng(13)

        def move(x: torch.Tensor) -> torch.Tensor:
            signs = torch.tensor(random.choice([-1.0, 1.0], tuple(x.shape)))
            return (x.detach() * (1 + step * signs)).requires_grad_(x.requires_grad)

        return replace(self, leaves=[move(x) if _floating(x) else x for x in self.leaves])

    def run(self, function: Callable, dtype: str, constants: Sequence[str], output_gradient: Callable) -> dict:
        """PyTorch's results in this dtype by name: y, or y0, y1, …, and d<input> for inputs that require a gradient.

        A module's first argument is the dictionary of its parameters.
        """
        to = getattr(torch, dtype)
        leaves = [
            x.detach().to(to).requires_grad_(x.requires_grad and name not in constants) if _floating(x) else x
            for name, x in zip(self.names, self.leaves, strict=True)
        ]
        if isinstance(function, torch.nn.Module):
            module = function.to(to)
            ys = self.made(lambda p, *args, **kwargs: functional_call(module, p, args, kwargs), leaves)
        else:
            ys = self.made(function, leaves)
        ys = ys if isinstance(ys, (tuple, list)) else [ys]
        results = {f"y{i}" if len(ys) > 1 else "y": np.asarray(_array(y)) for i, y in enumerate(ys)}
        if ys := [y for y in ys if _floating(y) and y.requires_grad]:
            torch.autograd.backward(ys, [torch.tensor(output_gradient(tuple(y.shape))).to(y.dtype) for y in ys])
            for name, x in zip(self.names, leaves, strict=True):
                if _floating(x) and x.requires_grad:
                    results[f"d{name}"] = _array(torch.zeros_like(x) if x.grad is None else x.grad)
        return results


def call(args: Sequence, kwargs: dict, names: Sequence[str]) -> Call:
    """A call whose positional arguments have these names, and numbers where there are no more."""
    leaves, tree = tree_flatten((tuple(args), kwargs))
    names = [*names[: len(args)], *map(str, range(len(names), len(args)))]
    named = [*zip(names, args, strict=True), *kwargs.items()]
    return Call(leaves, [leaf for name, x in named for leaf in _leaf_names(name, x)], tree)


def _leaf_names(name: str, x) -> list[str]:
    leaves = tree_leaves(x)
    if isinstance(x, dict):
        return list(x)
    return [name] if leaves and leaves[0] is x else [f"{name}{i}" for i in range(len(leaves))]


class Sample(NamedTuple):
    """A function and its arguments. It may be a module, whose parameters are the first, and which options made."""

    function: Callable
    args: tuple
    kwargs: dict
    options: tuple[tuple, dict] = ((), {})


def operator_samples(name: str, dtype: str) -> list[Sample]:
    """Those of an entry of op_db, the same each time."""
    info = OPERATORS[name]
    set_rng_seed(0)
    inputs = info.sample_inputs("cpu", getattr(torch, dtype), requires_grad=info.supports_autograd)
    return [Sample(info.op, (x.input, *x.args), x.kwargs) for x in inputs]


def operator_errors(name: str) -> list[tuple[Sample, str]]:
    """Those of an entry of op_db at which it raises an error, with a pattern of its words."""
    info = OPERATORS[name]
    set_rng_seed(0)
    errors = [(x.sample_input, x.error_regex) for x in (info.error_inputs("cpu") if info.error_inputs_func else ())]
    return [(Sample(info.op, (x.input, *x.args), x.kwargs), words) for x, words in errors]


def module_samples(name: str, dtype: str) -> list[Sample]:
    """Those of an entry of module_db, the same each time."""
    info, to = MODULES[name], getattr(torch, dtype)
    set_rng_seed(0)
    samples = []
    for x in info.module_inputs_func(info, device="cpu", dtype=to, requires_grad=True, training=False):
        made, given = x.constructor_input, x.forward_input
        module = info.module_cls(*made.args, **made.kwargs).to(to)
        parameters = {name: p.detach().requires_grad_() for name, p in module.named_parameters()}
        options = tree_map(_array, (made.args, made.kwargs))
        samples.append(Sample(module, (parameters, *given.args), given.kwargs, options))
    return samples


def _floating(x) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def _array(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else x
