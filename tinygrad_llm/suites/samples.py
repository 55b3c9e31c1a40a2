"""What the suites of PyTorch's samples share: each is compared, or left out for a reason that is written down."""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.errors import UserError
from tinygrad_llm.tensor import Tensor, floating
from tinygrad_llm.verification import (
    FLOORS,
    Comparison,
    Run,
    contiguous,
    dtypes,
    moves,
    output_gradient,
    takes_host,
    with_gaps,
)

CLEAR = (ValueError, TypeError, IndexError)  # a UserError is a ValueError


class Reason(NamedTuple):
    """Why samples of these entries, by their names without variants or with, are left out: those at which it `applies`,
    given the arguments by name. Ours must refuse them, unless not `refused`."""

    why: str
    entries: str
    applies: Callable[[dict], bool] = lambda arguments: True
    refused: bool = True


def given(*names: str) -> Callable[[dict], bool]:
    """That an argument of one of these names is given."""
    return lambda arguments: any(name in arguments for name in names)


def reference():
    """PyTorch's side. Raises UserError where its tests, or what they need, are not installed."""
    try:
        from tinygrad_llm.reference import samples
    except ModuleNotFoundError as error:
        raise UserError(
            f"PyTorch's own tests need {error.name}, which is not installed: pip install 'tinygrad-llm[test]'"
        ) from error
    return samples


def pairs_of(pages: dict[str, str], names=(), kernel_sets=()) -> list[tuple[str, str, str]]:
    """(entry, kernel set, dtype) for the named entries and sets, all by default, given the page in `ops` of each entry.

    Raises UserError for an unknown name, and for sets that have none of the entries, or only take a device's arrays.
    """
    if unknown := set(names) - set(pages):
        raise UserError(f"no entry of ours is called {', '.join(sorted(unknown))}; there are {', '.join(pages)}")
    sets = [name for name in kernel_sets or ["numpy", *kernels.builtin_sets()] if takes_host(name)]
    having = {name: pages.values() if name == "numpy" else kernels.KernelSet(name).operations() for name in sets}
    found = [(name, s) for name in names or pages for s in sets if pages[name] in having[s]]
    if not found:
        raise UserError(f"{', '.join(kernel_sets)} have no kernel for the host for {', '.join(names) or 'any entry'}")
    return [(name, kernel_set, dtype) for name, kernel_set in found for dtype in dtypes(kernel_set)]


def find(reasons: Iterable[Reason], entry: str, call) -> Reason | None:
    """The first that applies to a call of this entry, if any does."""
    arguments = dict(zip(call.names, call.leaves, strict=True))
    found = (reason for reason in reasons if {entry, entry.rpartition(".")[0]} & {*reason.entries.split()})
    return next((reason for reason in found if reason.applies(arguments)), None)


def compare_samples(comparison: Comparison, samples: Iterable, reasons: list[Reason], constants=()) -> Comparison:
    """Compare ours with PyTorch on each (call, PyTorch's function, ours), on arrays as they are and with gaps.

    Inputs that are called one of `constants` have no gradient.
    """
    dtype = comparison.dtype
    with kernels.use(comparison.kernels):
        for number, (call, theirs, ours) in enumerate(samples):
            reason = find(reasons, comparison.operation, call)
            found = [attempt(call, ours, constants, layout) for layout in (contiguous, with_gaps)]
            if reason:
                comparison.leave_out(reason.why)
                if not all(isinstance(result, CLEAR if reason.refused else dict) for result in found):
                    what = f"{found[0]!r}" if isinstance(found[0], Exception) else "no error"
                    comparison.failures.append(f"case {number}: {what} where the reason is: {reason.why}")
                continue
            comparison.cases += 1
            exact = own = call.run(theirs, "float64", constants, output_gradient)
            noise = dict
            if dtype in FLOORS:
                own = call.run(theirs, dtype, constants, output_gradient)
                noise = cache(partial(conditioning, call, theirs, constants, exact))
            shown = call.arrays(lambda _, x, __: x)
            for layout, result in zip((contiguous, with_gaps), found, strict=True):
                comparison.add(Run(number, 0, layout.__name__, shown, {}, result, exact, own, noise))
    return comparison


def conditioning(call, theirs: Callable, constants, exact: dict[str, np.ndarray]) -> dict[str, float]:
    """As `verification.conditioning`, of PyTorch's function at a call."""
    return moves(call.moved(FLOORS["float32"]).run(theirs, "float64", constants, output_gradient), exact)


def attempt(call, function: Callable, constants=(), layout=contiguous) -> dict[str, np.ndarray] | Exception:
    """Our results by name, as PyTorch's `Call.run`, or what was raised."""

    def tensor(name: str, x: np.ndarray, wants_gradient: bool) -> Tensor:
        return Tensor(layout(x) if floating(x.dtype) else x, requires_grad=wants_gradient and name not in constants)

    try:
        leaves = call.arrays(tensor)
        ys = call.made(function, leaves)
        ys = ys if isinstance(ys, (tuple, list)) else [ys]
        results = {f"y{i}" if len(ys) > 1 else "y": np.asarray(getattr(y, "data", y)) for i, y in enumerate(ys)}
        if ys := [y for y in ys if isinstance(y, Tensor) and y.requires_grad]:
            for y in ys:
                y.backward(output_gradient(y.shape).astype(y.dtype))
            for name, x in zip(call.names, leaves, strict=True):
                if isinstance(x, Tensor) and x.requires_grad:
                    results[f"d{name}"] = np.zeros_like(x.data) if x.grad is None else x.grad
    except Exception as error:  # a kernel may do anything
        return error
    return results
