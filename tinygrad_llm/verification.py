"""Every forward and every gradient, of every pair of functions, compared with PyTorch.

In float64 the error may be 1e-10 of the largest number in the result. In float32 it may be twice that of PyTorch's own
float32 on the same inputs, both measured against PyTorch's float64 (the rule of FlashAttention's tests), plus a few
units in the last place, since on some inputs PyTorch's error is zero by luck, or plus what a change of the inputs in
the last place does, where that is more: what cancels is as inexact as luck has it. So it is in float16 and bfloat16,
the inputs rounded beforehand. Kernels for GPUs are run on one, or without any on the emulator.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from tinygrad_llm import kernels, ops
from tinygrad_llm.devices import device_or_dtype, emulating, gpu_or_emulator, to_device
from tinygrad_llm.diagnosis import diagnose
from tinygrad_llm.errors import UserError
from tinygrad_llm.tensor import Tensor

FLOAT64_LIMIT = 1e-10
UNITS = {"float64": 2**-52, "float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}  # in the last place, of 1
FLOORS = {dtype: count * UNITS[dtype] for dtype, count in {"float32": 4, "float16": 1, "bfloat16": 1}.items()}
NOISE_LIMIT = 1e-4
JUMP = 1e-2  # in the oracle's cases noise is below 3e-3, and jumps are above 3e-2


@dataclass
class Comparison:
    """An operation by one kernel set in one dtype, compared with one suite's cases: its errors, and what failed."""

    operation: str
    kernels: str
    dtype: str
    suite: str = "oracle"
    cases: int = 0
    errors: dict[str, list[float]] = field(default_factory=dict)  # "y", "dx", … -> the relative error of each run
    theirs: dict[str, list[float]] = field(default_factory=dict)  # PyTorch's own in the same runs; none in float64
    failures: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # why -> how many cases of the suite are not compared
    emulated: bool = False  # on the emulator, for want of a GPU

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def largest(self) -> dict[str, float]:
        """The largest error of each result over all runs."""
        return {name: max(errors) for name, errors in self.errors.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """Of each result our error over PyTorch's: the geometric mean over all runs of (ours + u) / (theirs + u).

        u is half a unit in the last place, so that what no rounding could better is equal, two zeros among it.
        """
        u = UNITS.get(self.dtype, 0.0) / 2
        pairs = {name: (np.add(self.errors[name], u), np.add(self.theirs[name], u)) for name in self.theirs}
        return {name: float(np.exp(np.log(ours / theirs).mean())) for name, (ours, theirs) in pairs.items()}

    def leave_out(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1

    def add(self, found: "Run") -> None:
        """Judge one run, and keep its errors and what is wrong."""
        label = f"case {found.case} ({describe(found.inputs, found.options)}), seed {found.seed}, {found.layout}"
        if isinstance(found.ours, Exception):
            self.failures.append(f"{label}: {type(found.ours).__name__}: {found.ours}")
            return
        for verdict in judge(found, self.dtype):
            self.errors.setdefault(verdict.name, []).append(verdict.error)
            if self.dtype in FLOORS:
                self.theirs.setdefault(verdict.name, []).append(verdict.theirs)
            if verdict.wrong:
                self.failures.append(f"{label}: {verdict.wrong}")


def operations() -> dict[str, object]:
    """Every operation that has a page, by name."""
    return {value.__name__: value for value in vars(ops).values() if hasattr(value, "forward")}


def pairs(names=(), kernel_sets=()) -> list[tuple[str, str, str]]:
    """What there is to compare: (operation, kernel set, dtype) for the named operations and sets, all by default.

    Raises UserError for an unknown name, and for sets that have none of the operations.
    """
    unknown = set(names) - set(operations())
    if unknown:
        raise UserError(f"no operation is called {', '.join(sorted(unknown))}; there are {', '.join(operations())}")
    having = {"numpy": set(operations())} | {
        name: set(kernels.KernelSet(name).operations())
        for name in kernel_sets or kernels.builtin_sets()
        if name != "numpy"
    }
    sets = kernel_sets or list(having)
    found = [(name, s) for name in names or operations() for s in sets if name in having[s]]
    if not found:
        raise UserError(f"{', '.join(sets)} have no kernel for {', '.join(names) or 'any operation'}")
    return [(name, kernel_set, dtype) for name, kernel_set in found for dtype in dtypes(kernel_set)]


def dtypes(kernel_set: str) -> tuple[str, ...]:
    """Those in which a kernel set is compared: three for one that only takes a device's arrays."""
    return ("float64", "float32") if takes_host(kernel_set) else tuple(FLOORS)


def takes_host(kernel_set: str) -> bool:
    return kernel_set == "numpy" or kernels.KernelSet(kernel_set).takes(kernels.HOST)


def compare(name: str, kernel_set: str, dtype: str, seeds=(0,)) -> Comparison:
    """Compare one operation, computed by one kernel set in one dtype, with its oracle on all its cases (whole models
    are `locator.compare`'s).

    Each case runs twice: on contiguous arrays, and on arrays with gaps in memory.
    """
    comparison = Comparison(name, kernel_set, dtype, cases=len(oracles()[name].cases) * len(seeds))
    with kernels.use(kernel_set), place_for(kernel_set) as device:
        comparison.emulated = emulating() and device == "cuda"
        for each in runs(name, dtype, device, seeds):
            comparison.add(each)
    return comparison


class Run(NamedTuple):
    """An operation's results on one case, those of PyTorch in float64, and PyTorch's own in the dtype, all by name."""

    case: int
    seed: int
    layout: str
    inputs: list
    options: dict
    ours: dict[str, np.ndarray] | Exception  # a kernel may do anything
    exact: dict[str, np.ndarray]
    theirs: dict[str, np.ndarray]
    noise: Callable[[], dict[str, float]] = dict  # what a change of the inputs in float32's last place does


def runs(name: str, dtype: str, device: str = "cpu", seeds=(0,)) -> Iterator[Run]:
    """Each case of an operation with each seed, by the kernels in use, on contiguous arrays and on arrays with gaps."""
    oracle = oracles()[name]
    for index, case in enumerate(oracle.cases):
        for seed in seeds:
            inputs, options = rounded(*case.make(seed), dtype)
            exact = run_oracle(oracle, inputs, options, "float64", dtype)
            theirs = run_oracle(oracle, inputs, options, dtype, dtype) if dtype in FLOORS else exact
            noise = cache(partial(conditioning, oracle, inputs, options, exact, dtype)) if dtype in FLOORS else dict
            for layout in (contiguous, with_gaps):
                try:
                    ours = run(operations()[name], inputs, options, dtype, layout, device)
                except Exception as error:
                    ours = error
                yield Run(index, seed, layout.__name__, inputs, options, ours, exact, theirs, noise)


class Verdict(NamedTuple):
    """Of one result its relative error, PyTorch's, how large ours may be, and what is wrong in words, if anything."""

    name: str
    error: float
    theirs: float
    limit: float
    wrong: str = ""


def judge(found: Run, dtype: str) -> Iterator[Verdict]:
    """A verdict on each result of a run that raised nothing, or one alone where the results are not the right ones."""
    ours, exact, theirs = found.ours, found.exact, found.theirs
    if ours.keys() != exact.keys():
        yield Verdict("y", 0.0, 0.0, 0.0, f"gradients of {sorted(ours)} where PyTorch gives {sorted(exact)}")
        return
    for name, reference in exact.items():
        error, their_error = relative_error(ours[name], reference), relative_error(theirs[name], reference)
        limit = 2 * their_error + FLOORS[dtype] if dtype in FLOORS else FLOAT64_LIMIT
        if not error <= limit:
            limit = max(limit, 2 * their_error + found.noise().get(name, 0.0))
        wrong = []
        if ours[name].dtype != theirs[name].dtype:
            wrong.append(f"{name} is {ours[name].dtype}, PyTorch's {theirs[name].dtype}")
        if not error <= limit:
            words = diagnose(ours[name].astype(np.float64), reference)
            wrong.append(f"{name} is off by {error:.1e}, allowed {limit:.1e}" + (f": {words}" if words else ""))
        yield Verdict(name, error, their_error, limit, "; ".join(wrong))


@contextlib.contextmanager
def place_for(kernel_set: str) -> Iterator[str]:
    """The device on whose arrays a kernel set computes: the host, unless it only takes others."""
    if takes_host(kernel_set):
        yield "cpu"
    else:
        with gpu_or_emulator():
            yield "cuda"


def run(
    operation, inputs: list, options: dict, dtype: str, layout=lambda x: x, device: str = "cpu", wanted=None
) -> dict[str, np.ndarray]:
    """Our forward and gradients by name: y, and d<input> for every floating input, or only for those in `wanted`."""
    names = input_names(operation, len(inputs))

    def place(x):
        if isinstance(x, tuple):
            return tuple(map(place, x))
        if not isinstance(x, np.ndarray):
            return x
        return layout(to_device(x.astype(dtype), device)) if _differentiable(x) else to_device(x, device)

    wants = [_differentiable(x) and (wanted is None or name in wanted) for name, x in zip(names, inputs, strict=True)]
    tensors = [Tensor(place(x), requires_grad=True) if w else place(x) for x, w in zip(inputs, wants, strict=True)]
    before = [to_device(x.data, "cpu").copy() if isinstance(x, Tensor) else None for x in tensors]
    y = operation(*tensors, **{key: place(x) for key, x in options.items()})
    results = {"y": y.data}
    if y.requires_grad:
        y.backward(layout(to_device(output_gradient(y.shape).astype(y.dtype), device)))
        for name, x in zip(names, tensors, strict=True):
            if isinstance(x, Tensor):
                results[f"d{name}"] = np.zeros_like(x.data) if x.grad is None else x.grad
    for name, x, copy in zip(names, tensors, before, strict=True):
        if copy is not None and not np.array_equal(to_device(x.data, "cpu"), copy, equal_nan=True):
            raise ValueError(f"{name} has been written to")
    return {name: to_device(x, "cpu") for name, x in results.items()}


def run_oracle(oracle, inputs: list, options: dict, dtype: str, rounding: str = "float32") -> dict[str, np.ndarray]:
    """PyTorch's forward and gradients, under the same names, from a gradient of numbers that `rounding` can hold."""
    y, gradients = oracle.run(inputs, options, dtype, lambda shape: _rounded(output_gradient(shape), rounding))
    names = input_names(oracle.function, len(inputs))
    return {"y": y} | {f"d{name}": dx for name, dx in zip(names, gradients, strict=True) if dx is not None}


def conditioning(oracle, inputs: list, options: dict, exact: dict[str, np.ndarray], dtype: str) -> dict[str, float]:
    """How far the exact results move when each number of the inputs does, up or down by four units of float32."""
    random, step = np.random.default_rng(13), FLOORS["float32"]
    moved = [np.asarray(x * (1 + step * random.choice([-1, 1], x.shape))) if _differentiable(x) else x for x in inputs]
    results = run_oracle(oracle, moved, options, "float64", dtype)
    return moves(results, exact)


def moves(results: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> dict[str, float]:
    """How far each result has moved, at most `NOISE_LIMIT`; 0 where it is a `JUMP`, as at a tie: that is no noise."""
    errors = {name: relative_error(y, exact[name]) for name, y in results.items()}
    return {name: min(error, NOISE_LIMIT) if error < JUMP else 0.0 for name, error in errors.items()}


def rounded(inputs: list, options: dict, dtype: str) -> tuple[list, dict]:
    """The same, their floating arrays still float64, but of numbers that this dtype can hold."""
    return [_rounded(x, dtype) for x in inputs], {key: _rounded(x, dtype) for key, x in options.items()}


def _rounded(x, dtype: str):
    return x.astype(device_or_dtype(dtype)[1]).astype(np.float64) if _differentiable(x) else x


def output_gradient(shape: tuple[int, ...]) -> np.ndarray:
    """The gradient that the walk back starts from, the same each time: random, so that no term can hide."""
    return np.random.default_rng(7).normal(size=shape).astype(np.float32).astype(np.float64)


def contiguous(x: np.ndarray) -> np.ndarray:
    """The same array, its elements side by side in memory."""
    return x


def with_gaps(x: np.ndarray) -> np.ndarray:
    """The same array, not contiguous: its last axis runs backwards through every second element of a larger one."""
    if x.ndim == 0:
        return x
    wide = np.full_like(x, np.nan, shape=(*x.shape[:-1], 2 * x.shape[-1]))
    wide[..., ::-2] = x
    return wide[..., ::-2]


def relative_error(ours: np.ndarray, exact: np.ndarray, scale: float | None = None) -> float:
    """The largest difference, as a share of `scale`, by default the largest number in `exact`.

    Infinite where NaN or infinity differ; where `scale` is 0, the difference itself.
    """
    if ours.shape != exact.shape:
        return np.inf
    finite = np.isfinite(exact)
    if not np.array_equal(ours[~finite].astype(np.float64), exact[~finite].astype(np.float64), equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    difference = np.abs(ours[finite].astype(np.float64) - exact[finite]).max()
    if scale is None:
        scale = max(largest(exact), 1e-3)  # what is zero but for rounding has no relative error
    error = float(difference / scale if scale else difference)
    return error if error == error else np.inf


def largest(x: np.ndarray) -> float:
    """The largest number in an array by its size, but for NaN and infinity."""
    return float(np.abs(x).max(initial=0, where=np.isfinite(x)))


def input_names(operation, count: int) -> list[str]:
    """What the operation calls its first `count` inputs, as in d<name>; `concatenate`'s are numbered."""
    parameters = inspect.signature(getattr(operation, "forward", operation)).parameters.values()
    names = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}{i}" for i in range(count - len(names))]
        else:
            names.append(parameter.name)
    return names[:count]


def describe(inputs: list, options: dict) -> str:
    """A case in a few words: the shapes of the inputs, and the options."""
    shapes = ["×".join(map(str, x.shape)) or "scalar" if isinstance(x, np.ndarray) else repr(x) for x in inputs]
    return ", ".join([*shapes, *(f"{key}={value!r}" for key, value in options.items())])


def _differentiable(x) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def oracles() -> dict:
    """PyTorch's side of every operation. Raises UserError where PyTorch is not installed."""
    try:
        from tinygrad_llm.reference import ORACLES
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError("PyTorch is the oracle and is not installed: pip install 'tinygrad-llm[torch]'") from error
    return ORACLES
