"""A kernel's results beside PyTorch's, in every dtype and thread order, and the first element that is wrong.

It runs in a process of its own, `python -m tinygrad_llm.lab.values FILE OPERATION`, since a kernel may do anything:
what it finds is printed as it goes, a JSON object a line.
"""

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tinygrad_llm import devices, kernels, verification
from tinygrad_llm.kernels import cuda
from tinygrad_llm.kernels.cuda import launch
from tinygrad_llm.kernels.cuda.emulator.library import ORDERS, KernelError, order
from tinygrad_llm.lab.report import Asked, Finding, Values, finding_of
from tinygrad_llm.lab.source import Source, source

SHOWN = 6  # numbers of an input that stand for a row


@contextlib.contextmanager
def in_use(found: Source, on: Callable = devices.emulated) -> Iterator[set[tuple[str, str]]]:
    """The file computes its operation inside this block, on the emulator if it is CUDA's, or inside another `on`.

    Yields the set of its kernels that have been asked for, with the dtypes.
    """
    kernel_set = kernels.KernelSet(str(found.wrapper), found.operation)
    asked: set[tuple[str, str]] = set()
    with contextlib.ExitStack() as stack:
        if found.is_cuda:
            kernel_set.takes = cuda.takes
            stack.enter_context(on())
            asked = stack.enter_context(launch.instead(found.replaced.resolve(), found.path))
        stack.enter_context(kernels.use(kernel_set))
        yield asked


def compare(found: Source) -> Iterator[Values | Finding]:
    """For each dtype and thread order what came of it, and before that what is wrong in any run."""
    with in_use(found) as asked:
        for dtype in found.dtypes:
            for threads in ORDERS if found.is_cuda else ("",):
                with order(threads) if threads else contextlib.nullcontext():
                    yield from compare_in(found, dtype, threads)
    if found.is_cuda:
        yield Asked(sorted(asked))


def compare_in(found: Source, dtype: str, threads: str) -> Iterator[Values | Finding]:
    operation, values = verification.operations()[found.operation], Values(dtype, threads)
    for run in verification.runs(found.operation, dtype, "cuda" if found.is_cuda else "cpu"):
        where = f"case {run.case} ({verification.describe(run.inputs, run.options)}), {dtype}"
        where += f", threads in {threads} order" if threads else ""
        where += ", arrays with gaps" if run.layout == verification.with_gaps.__name__ else ""
        values.runs += 1
        wrong = []
        if isinstance(run.ours, KernelError):
            wrong = [finding_of(str(run.ours), where)]
        elif isinstance(run.ours, Exception):
            wrong = [Finding("error", f"{type(run.ours).__name__}: {run.ours}", _place(run.ours, found), (where,))]
        else:
            arrays = dict(zip(verification.input_names(operation, len(run.inputs)), run.inputs, strict=True))
            dy = verification.output_gradient(run.exact["y"].shape)
            for name, error, _, limit, words in verification.judge(run, dtype):
                values.errors[name] = max(error, values.errors.get(name, 0.0))
                if not error <= limit:
                    met = arrays if name == "y" else arrays | {"dy": dy}
                    wrong.append(first_wrong(name, run.ours[name], run.exact[name], limit, met, where))
                elif words:
                    wrong.append(Finding("value", words, "", (where,)))
        values.passed &= not wrong
        yield from wrong
    yield values


def first_wrong(name: str, ours: np.ndarray, exact: np.ndarray, limit: float, arrays: dict, where: str) -> Finding:
    """The first element that is off by more than allowed, what it should be, and what the inputs are there."""
    if ours.shape != exact.shape:
        return Finding("value", f"{name} has shape {ours.shape}, should have {exact.shape}", "", (where,))
    ours, finite = ours.astype(np.float64), np.isfinite(exact)
    scale = max(verification.largest(exact), 1e-3)
    with np.errstate(invalid="ignore"):
        close = np.abs(ours - exact) <= limit * scale
        wrong = ~np.where(finite, close, (ours == exact) | np.isnan(ours) & np.isnan(exact))
    index = tuple(map(int, np.argwhere(wrong)[0]))
    message = f"{name}{list(index) or ''} is {ours[index]:.6g}, should be {exact[index]:.6g}"
    message += f"; {wrong.sum()} of {wrong.size} elements are wrong" if index else ""
    there = (f"{n}{at(x, index, exact.shape)}" for n, x in arrays.items() if isinstance(x, np.ndarray))
    return Finding("value", message, "", (where, f"inputs there: {', '.join(there)}"))


def at(x: np.ndarray, index: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """What of an input meets this element of a result of `shape`, axes aligned from the right as in broadcasting."""
    key: list[int | slice] = []
    for axis in range(-x.ndim, 0):
        meets = -axis <= len(shape) and x.shape[axis] == shape[axis]
        key.append(index[axis] if meets else 0 if x.shape[axis] == 1 else slice(None))
    label = ", ".join(":" if isinstance(k, slice) else str(k) for k in key)
    part = np.asarray(x[tuple(key)])
    numbers = ", ".join(f"{value:.6g}" for value in part.flat[:SHOWN])
    more = f", … {part.size} in all" if part.size > SHOWN else ""
    return f"{f'[{label}]' if key else ''} = {f'({numbers}{more})' if part.ndim else numbers}"


def _place(error: Exception, found: Source) -> str:
    """The last line of the reader's Python that the error came through."""
    own = {str(path.resolve()) for path in (found.wrapper, found.path)}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(Path(f.filename).resolve()) in own]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def launch_all(path: str, operation: str) -> None:
    """Every case in the first and the last dtype, for the sanitizers, who read what the emulator says from stderr."""
    found = source(path, operation)
    with in_use(found):
        for dtype in dict.fromkeys((found.dtypes[0], found.dtypes[-1])):
            for case in verification.oracles()[operation].cases:
                inputs, options = verification.rounded(*case.make(0), dtype)
                try:
                    verification.run(verification.operations()[operation], inputs, options, dtype, device="cuda")
                except Exception as error:  # `compare` tells of it too
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)


def main(path: str, operation: str) -> None:
    for each in compare(source(path, operation)):
        print(json.dumps([type(each).__name__, asdict(each)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
