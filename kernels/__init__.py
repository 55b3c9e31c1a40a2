"""Which functions compute an operation: the NumPy pair on its page in `ops`, or a faster pair.

A kernel is a module that has an operation's functions under the names of its page (`layernorm_forward`,
`layernorm_backward`), with the same arguments and results; what the forward saves for the backward is its own affair.
A *kernel set* is a folder of kernels, one file per operation: a subpackage of this one (`numba`), or a folder or a
single file of the user's, named by its path. A set takes NumPy's arrays of some dtypes, or says itself what it takes,
in a function `takes(array)` of the subpackage or the file.

One rule picks: the first set asked for that takes the array (its device and dtype) and has the operation; NumPy's
page if none does, or if the kernel raises `Unsupported`.
"""

import importlib
import importlib.machinery
import importlib.util
import inspect
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np

from tinygrad_llm.devices import cuda_can_run
from tinygrad_llm.errors import UserError

HOST = np.empty(0, np.float32)  # what most arrays are like


class Unsupported(Exception):
    """Raised by a kernel's forward for what it does not take, say "heads of 200 numbers": the page takes its place."""


class KernelSet:
    """The kernels in one place: a subpackage of `tinygrad_llm.kernels`, or a path of the user's.

    A single file is the kernel of this `operation`; of the one that it is named after unless given.
    """

    def __init__(self, name: str, operation: str | None = None):
        self.name = name
        self.modules: dict[str, ModuleType | None] = {}
        if name in _installed():
            self.package = importlib.import_module(f"{__name__}.{name}")
        else:
            self.package = None
            path = Path(name)
            files = sorted(path.glob("*.py")) if path.is_dir() else [path]
            if name in _folders():
                raise UserError(f"the kernel set {name!r} needs {name}: pip install 'tinygrad-llm[{name}]'")
            if not files or not all(file.is_file() for file in files):
                raise UserError(
                    f"no kernel set {name!r}: give one of {', '.join(['numpy', *_installed()])}, "
                    "a Python file named after its operation, or a folder of such files"
                )
            self.modules = {operation or file.stem: _import_file(file) for file in files}
        first = self.package or next(iter(self.modules.values()))
        self.dtypes = getattr(first, "DTYPES", ("float32", "float64"))
        self.takes = getattr(first, "takes", self._takes)

    def _takes(self, array) -> bool:
        """Whether this set computes on arrays of this kind: their device and dtype."""
        return isinstance(array, np.ndarray) and array.dtype.name in self.dtypes

    def find(self, operation: str) -> ModuleType | None:
        """The module with this operation's functions, imported at first use."""
        if self.package and operation not in self.modules:
            module = f"{self.package.__name__}.{operation}"
            found = importlib.util.find_spec(module)
            self.modules[operation] = importlib.import_module(module) if found else None
        return self.modules.get(operation)

    def operations(self) -> list[str]:
        """The names of the operations that this set has a kernel for."""
        if not self.package:
            return sorted(self.modules)
        files = Path(self.package.__path__[0]).glob("[!_]*.py")
        return sorted(file.stem for file in files if _defines_kernel(file))


class use:
    """Prefer these kernel sets, in this order: for good when called, until the block's end in a `with` statement.

    >>> use("numba", "cuda")             # the default where Numba is installed: each takes its device's arrays
    >>> with use("numpy"): ...           # the definitions
    >>> use("my/layernorm.py", "numba")  # one kernel of one's own

    Raises UserError for a name that is neither a set nor a path to kernels.
    """

    def __init__(self, *names: str | KernelSet):
        global _active
        self.previous = _active
        _active = tuple(name if isinstance(name, KernelSet) else KernelSet(name) for name in names if name != "numpy")
        _chosen.clear()

    def __enter__(self) -> "use":
        return self

    def __exit__(self, *exception) -> None:
        global _active
        _active = self.previous
        _chosen.clear()


def active(array=HOST) -> tuple[str, ...]:
    """The names of the preferred sets that take arrays like this one, in order; NumPy's pages stand behind them all."""
    return (*(kernel_set.name for kernel_set in _active if kernel_set.takes(array)), "numpy")


def builtin_sets() -> list[str]:
    """The sets that come with the package and can run here: `cuda` on a GPU, or on the emulator with what it needs."""
    return [name for name in _installed() if name != "cuda" or cuda_can_run()]


def _installed() -> list[str]:
    """Those whose technology is installed; that of `cuda` is looked for where arrays are made on a device."""
    return sorted(name for name in _folders() if name == "cuda" or importlib.util.find_spec(name))


def _folders() -> list[str]:
    return [path.parent.name for path in Path(__file__).parent.glob("*/__init__.py")]


def find(operation: str, array) -> ModuleType | None:
    """The preferred sets' kernel for arrays like `array`, of something that has no page; None if there is none."""
    found = (kernel_set.find(operation) for kernel_set in _active if kernel_set.takes(array))
    return next((module for module in found if module), None)


def select(name: str, page, array):
    """The function called `name`, say "layernorm_forward", for arrays like `array`: a kernel's, or else `page`'s own.

    `page` is the NumPy function. Functions of one operation come from one set, whichever is asked for first.
    """
    if not _active:
        return page
    key = (page, type(array), getattr(array, "dtype", None))
    if key not in _chosen:
        _chosen[key] = _choose(name, page, array)
    return _chosen[key]


def note_fallback(operation: str, reason: Unsupported) -> None:
    """Say, once, that the page of an operation takes the place of its kernel."""
    message = f"{operation}: the kernel does not take {reason}; NumPy's page computes it, which is slower"
    if message not in _noted:
        _noted.add(message)
        warnings.warn(message, stacklevel=4)


def _choose(name: str, page, array):
    operation = name.rpartition("_")[0]
    for kernel_set in _active:
        module = kernel_set.find(operation) if kernel_set.takes(array) else None
        if module is None:
            continue
        kernel = getattr(module, name, None)
        if kernel is None:
            raise UserError(f"{module.__file__} has no {name}: a kernel has every function of its operation")
        expected, got = (list(inspect.signature(function).parameters) for function in (page, kernel))
        if _contract(name, expected) != _contract(name, got):
            raise UserError(f"{module.__file__}: {name}({', '.join(got)}) must take ({', '.join(expected)})")
        return kernel
    return page


def _contract(name: str, parameters: list[str]):
    """What a kernel must have in common with its page: of a backward the first, dy, since the rest is what was saved.

    `needs`, `out` and `arrived`, which the tape gives to those that ask, are each one's own affair.
    """
    return parameters[:1] if name.endswith("_backward") else [p for p in parameters if p != "needs"]


def _defines_kernel(file: Path) -> bool:
    return f"def {file.stem}_" in file.read_text()


class _Uncached(importlib.machinery.SourceFileLoader):
    """Python takes a file of the same second and size for the one that it has compiled. One's own kernel is at work."""

    def path_stats(self, path):
        raise OSError("compiled anew each time")


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=_Uncached(path.stem, str(path)))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"the kernel {path} does not load: {type(error).__name__}: {error}") from error
    return module


_chosen: dict[tuple, object] = {}
_noted: set[str] = set()
_active: tuple[KernelSet, ...] = ()
use(*(["numba"] if importlib.util.find_spec("numba") else []), "cuda")
