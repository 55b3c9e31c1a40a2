"""Mutants of what runs on the host: NumPy's pages, Numba's kernels (interpreted, see there) and PyTorch's.

A mutant is run as a user's own kernel. All modules of its set are made anew for it, in memory, so that a mistake in one
that others import, say in `broadcasting`, reaches those that use it.
"""

import builtins
import contextlib
import functools
import importlib
import re
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np

from tinygrad_llm import kernels, ops, verification
from tinygrad_llm.devices import emulated
from tinygrad_llm.mutation.apart import outcome
from tinygrad_llm.mutation.interpreted import INSTEAD
from tinygrad_llm.nn import LayerNorm, RMSNorm, add_norm
from tinygrad_llm.tensor import Tensor

FOLDERS = {name: Path(kernels.__file__).parent / name for name in ("numba", "torch")}
FOLDERS["numpy"] = Path(ops.__file__).parent
PACKAGES = {"numpy": "tinygrad_llm.ops", "numba": "tinygrad_llm.kernels.numba", "torch": "tinygrad_llm.kernels.torch"}
LEFT_OUT = {  # files, and why
    "numpy": {},
    "numba": {
        "simd": "LLVM's language",
        "vectors": "LLVM's language",
        "threads": "LLVM's language, and the threads themselves",
        "adamw": "no operation",
        "grad_norm": "no operation",
        "decoding": "no operation",
        "philox": "no operation",
    },
    "torch": {"adamw": "no operation"},
}
NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
SMALL = {"LOGITS": 512, "DEPTH": 33, "PANELS": 2, "STRIPS": 2, "SUMMED": 7}
"""How much `linear_cross_entropy` and Numba's `product` do at a time: so little that small cases take several turns."""
SECONDS = 20  # of the processor for a case: a mutant may not end


@functools.cache
def users(kernel_set: str) -> dict[str, tuple[str, ...]]:
    """By file's stem, the operations whose cases judge it: its own first, and those of the files that import it."""
    sources = {path.stem: path.read_text() for path in FOLDERS[kernel_set].glob("[!_]*.py")}
    pattern = rf"from {re.escape(PACKAGES[kernel_set])}\.(\w+) import"
    imports = {name: set(re.findall(pattern, source)) for name, source in sources.items()}

    def reached(name: str) -> set[str]:
        return {name}.union(*(reached(other) for other in imports[name]))

    operations = [name for name in verification.operations() if name in sources]
    judges = {name: tuple(o for o in operations if name in reached(o)) for name in sources}
    left_out = LEFT_OUT[kernel_set]
    return {n: tuple(sorted(using, key=n.__ne__)) for n, using in judges.items() if using and n not in left_out}


def path(kernel_set: str, name: str) -> Path:
    return FOLDERS[kernel_set] / f"{name}.py"


class Planted(kernels.KernelSet):
    """A kernel set as it would be if `file` had this text."""

    def __init__(self, kernel_set: str, file: Path, source: str):
        self.name, self.kernel_set, self.package = f"a mutant of {kernel_set}", kernel_set, None
        self.modules, self.changed = {}, {file.stem: source}
        self.takes = kernels.KernelSet(kernel_set).takes if kernel_set != "numpy" else None

    def find(self, operation: str) -> ModuleType | None:
        """The module of this name, run anew."""
        file = path(self.kernel_set, operation)
        if operation not in self.modules and file.is_file():
            module = self.modules[operation] = ModuleType(f"mutant.{operation}")
            module.__file__, module.__builtins__ = str(file), vars(builtins) | {"__import__": self._import}
            changed = self.changed.get(operation)
            exec(compile(changed, file, "exec") if changed else _code(file), vars(module))
            vars(module).update({name: value for name, value in SMALL.items() if hasattr(module, name)})
        return self.modules.get(operation)

    def operation(self, name: str):
        """The function on Tensors: the page's own, made anew, or the one that this set is asked to compute."""
        return vars(self.find(name))[name] if self.kernel_set == "numpy" else verification.operations()[name]

    def _import(self, name, globals=None, locals=None, fromlist=(), level=0):
        if self.kernel_set == "numba" and name in INSTEAD:
            return INSTEAD[name]
        package, _, module = name.rpartition(".")
        if package == PACKAGES[self.kernel_set]:
            return self.find(module)
        return builtins.__import__(name, globals, locals, fromlist, level)


@functools.cache
def _code(file: Path):
    return compile(file.read_text(), file, "exec")


def verdict(kernel_set: str, file: Path, source: str) -> str:
    """Which case notices that `file` has this text, or "survived".

    PyTorch's kernels may crash: they are asked in a process of their own, on one thread, since no other comes along.
    """
    if kernel_set != "torch":
        return noticed(kernel_set, file, source)
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for operation in users(kernel_set)[file.stem]:
            for dtype in ("float64", "float32"):
                expected(operation, dtype)  # kept here for all processes
        said = outcome(functools.partial(noticed, kernel_set, file, source), 10 * SECONDS)
    finally:
        torch.set_num_threads(before)
    return said if said.startswith(("killed", "survived")) else f"killed by {said}"


def noticed(kernel_set: str, file: Path, source: str) -> str:
    """As `verdict`, in this process.

    In float64, then in float32, then with one input at a time that wants its gradient; then a page on a device's
    arrays, a kernel with places for its gradients and with the sum before a norm.
    """
    planted, pages = Planted(kernel_set, file, source), kernel_set == "numpy"
    checks = [compared("float64"), compared("float32"), alone, *([on_device] if pages else [added, after_a_sum])]
    page = importlib.import_module("tinygrad_llm.ops.linear_cross_entropy")
    fewer = mock.patch.object(page, "LOGITS", SMALL["LOGITS"])
    with kernels.use("numpy" if pages else planted), fewer, quiet():
        try:
            for check in checks:
                for operation in users(kernel_set)[file.stem]:
                    for noticed in check(planted, operation):
                        return f"killed by {operation}, {noticed}"
        except TimeoutError:
            return f"killed by the clock: a case took longer than {SECONDS} s"
    return "survived"


@functools.cache
def expected(operation: str, dtype: str) -> list[tuple[int, list, dict, dict, dict]]:
    """Of each case its number, inputs, options, and PyTorch's results in float64 and in the dtype."""
    oracle, found = verification.oracles()[operation], []
    for index, case in enumerate(oracle.cases):
        inputs, options = verification.rounded(*case.make(0), dtype)
        for x in (*inputs, *options.values()):
            if isinstance(x, np.ndarray):
                x.flags.writeable = False  # whoever writes to it is noticed
        exact = verification.run_oracle(oracle, inputs, options, "float64", dtype)
        theirs = exact if dtype == "float64" else verification.run_oracle(oracle, inputs, options, dtype, dtype)
        found.append((index, inputs, options, exact, theirs))
    return found


def compared(dtype: str, device: str = "cpu"):
    """The check of `verification.compare`."""

    def check(planted: Planted, operation: str) -> Iterator[str]:
        for case in expected(operation, dtype):
            for layout in (verification.contiguous, verification.with_gaps):
                yield from wrong(planted, operation, case, dtype, layout, device)

    return check


def on_device(planted: Planted, operation: str) -> Iterator[str]:
    """As `compared`, on the arrays of CuPy's stand-in, which refuses what CuPy refuses."""
    with emulated():
        yield from compared("float64", "cuda")(planted, operation)


def alone(planted: Planted, operation: str) -> Iterator[str]:
    """The check that a gradient is the same where no other is wanted."""
    for index, inputs, options, exact, _ in expected(operation, "float64"):
        for name in exact.keys() - {"y"}:
            only = {key: exact[key] for key in ("y", name)}
            case = index, inputs, options, only, only
            yield from wrong(planted, operation, case, "float64", wanted=name.removeprefix("d"))


def added(planted: Planted, operation: str) -> Iterator[str]:
    """The check that gradients go to the arrays that are there for them, and next time are added to what is there.

    What they are of is in Fortran's order.
    """
    in_fortrans = functools.partial(np.array, order="F")

    def twice(apply):
        @functools.wraps(apply)
        def walk_back_and_apply(*inputs, **options):
            for x in inputs:
                if isinstance(x, Tensor):
                    x.grad_buffer = np.full(x.shape, np.nan, x.dtype)
            y = apply(*inputs, **options)
            if y.requires_grad:
                y.backward(verification.output_gradient(y.shape).astype(y.dtype))
            for x in inputs:
                if isinstance(x, Tensor):
                    x.grad += 1
            return apply(*inputs, **options)

        return walk_back_and_apply

    for index, inputs, options, exact, _ in expected(operation, "float64"):
        exact = {name: x if name == "y" else 2 * x + 1 for name, x in exact.items()}
        case = index, inputs, options, exact, exact
        yield from wrong(planted, operation, case, "float64", in_fortrans, through=twice)


def after_a_sum(planted: Planted, operation: str) -> Iterator[str]:
    """The check of a kernel that adds, too, what its norm is of: `add_norm`, whose sum another gradient reaches."""

    def sum_first(apply):
        @functools.wraps(apply)
        def add_and_apply(x, *vectors, **options):
            norm = NORMS[operation](1, **options)
            norm.weight, norm.bias = (*vectors, None)[:2]
            part, rest = 0.25 * x, 0.75 * x
            part.data.flags.writeable = False
            z, y = add_norm(part, rest, norm)
            return y + (x - z)

        return add_and_apply

    if hasattr(planted.find(operation), f"add_{operation}_forward"):
        for case in expected(operation, "float64"):
            yield from wrong(planted, operation, case, "float64", through=sum_first)


def wrong(
    planted: Planted, operation: str, case: tuple, dtype: str, *how, wanted=None, through=lambda apply: apply
) -> Iterator[str]:
    """What is wrong with our results on a case, those of what `through` makes of the operation."""
    index, inputs, options, exact, theirs = case
    try:
        with limited(SECONDS):
            apply = through(planted.operation(operation))
            ours = verification.run(apply, inputs, options, dtype, *how, wanted=wanted and (wanted,))
        found = verification.Run(index, 0, "", inputs, options, ours, exact, theirs)
        verdicts = [verdict.wrong for verdict in verification.judge(found, dtype)]
    except TimeoutError:
        raise
    except Exception as error:  # a mutant may do anything
        verdicts = [f"{type(error).__name__}: {error}"]
    yield from (f"case {index} in {dtype}: {verdict}" for verdict in verdicts if verdict)


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError where the block takes more of the processor's time, in the main thread."""

    def stop(_signal, _frame):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, of which mutants cause many."""
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        yield
