"""A stand-in for CuPy where there is no GPU: its arrays are NumPy's inside, its kernels run on the emulator.

It refuses what CuPy refuses, so that what runs on it has no hidden conversion left: a device array becomes NumPy's by
`.get()` alone, it does not meet NumPy's arrays in any function, and where CuPy is installed, which needs no GPU, it
knows no function that CuPy lacks, nor an argument that CuPy's function does not take. What waits for the device
(`.get()`, `float(x)`, `x[mask]`, …) is allowed, as in CuPy, and noted: see `synchronizations`.

It is stricter than CuPy in what is silent there: an index beyond the end is an error, and so is one made of NumPy's
arrays; and memory that nobody has written holds NaN.

Halves are summed and multiplied as matrices in float32 and rounded at the end, as CuPy and cuBLAS do.
"""

import functools
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tinygrad_llm.kernels.cuda.emulator import cuda
from tinygrad_llm.kernels.cuda.emulator.ndarray import _host, _index, _note, _notes, _wrap, ndarray
from tinygrad_llm.tensor import floating

HALVES = ("float16", "bfloat16")
HOST_ARRAYS = ("array", "asarray", "ascontiguousarray", "asfortranarray", "asanyarray")  # functions that copy them
SUMS = ("sum", "mean", "prod", "var", "std", "cumsum", "cumprod", "matmul", "dot", "einsum", "tensordot")
ELEMENTS = ("where", "clip")  # functions that compute element by element, and are no ufuncs
OF_UFUNCS = {"out", "dtype", "where"}  # the options that CuPy's have
METHODS = """copy diagonal flatten nonzero ravel repeat reshape round sort squeeze swapaxes take trace transpose
    view""".split()
FUNCTIONS = "all any argmax argmin argsort clip cumprod cumsum dot max mean min prod searchsorted std sum var".split()
"""Methods that are functions too, with the same arguments."""


@contextmanager
def synchronizations() -> Iterator[list[str]]:
    """A list of what waits for the device inside this block, each with the line that asked for it."""
    notes: list[str] = []
    _notes.append(notes)
    try:
        yield notes
    finally:
        _notes.remove(notes)


@functools.cache
def _cupy():
    """CuPy itself, for the names that it has; None where it is not installed. It needs no GPU to be imported."""
    return importlib.import_module("cupy") if importlib.util.find_spec("cupy") else None


@functools.cache
def _function(name: str, called=None):
    """NumPy's function of this name, on device arrays. `called` is the one that NumPy has handed over."""
    path = [*getattr(called, "__module__", "numpy").split(".")[1:], name]
    try:
        function, theirs = (functools.reduce(getattr, path, module) for module in (np, _cupy() or np))
    except AttributeError:
        raise (TypeError if called else AttributeError)(f"CuPy has no {'.'.join(path)}") from None
    if isinstance(function, type) or not callable(function):
        return function
    signature = _signature(theirs)

    def apply(*inputs, **options):
        if signature:
            signature.bind(*inputs, **options)
        elif isinstance(function, np.ufunc) and (wrong := options.keys() - OF_UFUNCS):
            raise TypeError(f"Wrong arguments {wrong}")
        out = options.get("out")
        if name not in HOST_ARRAYS:
            inputs, options = _host(inputs), {key: _host(value) for key, value in options.items()}
        else:
            inputs = tuple(x.host if isinstance(x, ndarray) else x for x in inputs)
        half = _half(inputs) if isinstance(function, np.ufunc) or name in SUMS + ELEMENTS else None
        if half and name in SUMS:
            inputs = [x.astype(np.float32) if getattr(x, "dtype", None) == half else x for x in inputs]
        elif half:
            inputs = [half.type(x) if type(x) in (int, float) else x for x in inputs]
        with np.errstate(all="ignore"):
            y = function(*inputs, **options)
        if out is not None:
            return out
        if name in ("empty", "empty_like") and floating(y.dtype):
            y.fill(np.nan)
        return _wrap(y.astype(half) if half and name in SUMS and "dtype" not in options else y)

    if isinstance(function, np.ufunc):
        apply.at = lambda x, index, *values: function.at(_host(x), _index(index), *_host(values))
    apply.__name__ = name
    return apply


def _signature(function) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # of what is compiled
        return None


def _half(inputs):
    """The dtype of float16 or bfloat16 arrays that a function has as its only ones."""
    dtypes = {x.dtype for x in inputs if isinstance(x, np.ndarray) and x.dtype != bool}
    return dtypes.pop() if len(dtypes) == 1 and next(iter(dtypes)).name in HALVES else None


def asarray(x, dtype=None, order=None, blocking=False) -> ndarray:
    """x on the device: itself if it is there, else a copy."""
    if isinstance(x, ndarray):
        return x if dtype is None else x.astype(dtype, copy=False)
    return _wrap(np.array(x, dtype, order=order or "K"))


def array(x, dtype=None, copy=True, order="K", subok=False, ndmin=0, blocking=False) -> ndarray:
    """A copy of x on the device."""
    return _wrap(np.array(x.host if isinstance(x, ndarray) else x, dtype, order=order, ndmin=ndmin))


def asnumpy(x, stream=None, order="C", out=None, blocking=True) -> np.ndarray:
    """A copy of x in the host's memory."""
    return x.get(order=order, out=out) if isinstance(x, ndarray) else np.asarray(x, order=order)


def get_array_module(*inputs):
    """This module if any of them is a device array, else NumPy."""
    return sys.modules[__name__] if any(isinstance(x, ndarray) for x in inputs) else np


def erfc(x: ndarray) -> ndarray:
    """As `cupyx.scipy.special.erfc`."""
    return _wrap(np.vectorize(math.erfc, otypes="d")(x.host).astype(x.dtype))


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    if not hasattr(np, name):
        raise AttributeError(f"the stand-in for CuPy has no {name!r}")
    return _function(name)


def _array_ufunc(self, ufunc, method, *inputs, out=None, **options):
    function = _function(ufunc.__name__)
    if out is not None:
        options["out"] = out[0]
    return (function if method == "__call__" else getattr(function, method))(*inputs, **options)


def _array_function(self, function, types, inputs, options):
    if not all(issubclass(kind, (ndarray, np.ndarray)) for kind in types):
        return NotImplemented
    return _function(function.__name__, function)(*inputs, **options)


def _attribute(name: str):
    return property(lambda self: _wrap(getattr(self.host, name)) if name in ("T", "mT") else getattr(self.host, name))


def _method(name: str):
    def method(self, *inputs, **options):
        if name == "nonzero":
            _note("x.nonzero()")
        return _wrap(getattr(self.host, name)(*_host(inputs), **{key: _host(x) for key, x in options.items()}))

    return method


def _function_as_method(name: str):
    return lambda self, *inputs, **options: _function(name)(self, *inputs, **options)


def _operator(ufunc: str, swapped: bool = False):
    def compute(self, *other):
        inputs = (*other, self) if swapped else (self, *other)
        if any(not isinstance(x, (ndarray, np.ndarray)) and not np.isscalar(x) for x in inputs):
            return NotImplemented
        return _function(ufunc)(*inputs)

    return compute


def _in_place(ufunc: str):
    return lambda self, other: _function(ufunc)(self, other, out=self)


BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
}  # fmt: skip
OTHERS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "neg": "negative", "invert": "invert", "abs": "absolute",
}  # fmt: skip
ndarray.__array_ufunc__, ndarray.__array_function__ = _array_ufunc, _array_function
for _name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "T", "mT"):
    setattr(ndarray, _name, _attribute(_name))
for _name in METHODS:
    setattr(ndarray, _name, _method(_name))
for _name in FUNCTIONS:
    setattr(ndarray, _name, _function_as_method(_name))
for _name, _ufunc in BINARY.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc))
    setattr(ndarray, f"__r{_name}__", _operator(_ufunc, swapped=True))
    setattr(ndarray, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in OTHERS.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc))

RawModule = cuda.RawModule


def get_default_memory_pool():
    return cuda._pool


def get_default_pinned_memory_pool():
    return cuda._pool
