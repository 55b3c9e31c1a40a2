"""What stands in for `cupy.ndarray`: an array of NumPy's, `host`, that only the emulator looks into.

Its operators, and the methods that are functions too, are `standin`'s.
"""

import operator
import sys
from types import SimpleNamespace

import numpy as np

from tinygrad_llm.kernels.cuda.emulator import cuda

IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. "
    "Please use `.get()` to construct a NumPy array explicitly."
)

_notes: list[list[str]] = []  # of those who count what waits for the device


class ndarray:
    """An array on the device."""

    __slots__ = ("__weakref__", "host")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float):
        self.host = np.empty(shape, dtype)

    # What it refuses

    def __array__(self, dtype=None, copy=None):
        raise TypeError(IMPLICIT)

    @property
    def __cuda_array_interface__(self):
        raise TypeError("an emulated array is in the host's memory: no other library can use it as a GPU's")

    # What it is

    @property
    def data(self):
        return SimpleNamespace(ptr=self.host.ctypes.data)

    @property
    def device(self):
        return cuda.Device(0)

    @property
    def flags(self):
        flags = self.host.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata)

    @property
    def base(self):
        return None if self.host.base is None else _wrap(self.host.base)

    def __len__(self) -> int:
        return len(self.host)

    def __repr__(self) -> str:
        _note("repr(x)")
        return repr(self.host)

    def __iter__(self):
        return (_wrap(row) for row in self.host)

    # What waits for the device

    def get(self, stream=None, order="C", out=None, blocking=True) -> np.ndarray:
        """A copy in the host's memory."""
        _note("x.get()")
        if out is None:
            return np.array(self.host, order=order)
        out[...] = self.host
        return out

    def set(self, array: np.ndarray, stream=None) -> None:
        """Overwrite with an array of the host's, of this shape and dtype."""
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if array.dtype != self.dtype:
            raise TypeError(f"{array.dtype} array cannot be set to {self.dtype} array")
        if array.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {array.shape}")
        self.host[...] = array

    def item(self, *position):
        _note("x.item()")
        return self.host.item(*position)

    def tolist(self):
        _note("x.tolist()")
        return self.host.tolist()

    def __bool__(self) -> bool:
        _note("bool(x)")
        return bool(self.host)

    def __int__(self) -> int:
        _note("int(x)")
        return int(self.host)

    def __float__(self) -> float:
        _note("float(x)")
        return float(self.host)

    def __index__(self) -> int:
        _note("x as an index")
        return operator.index(self.host)

    # Its elements

    def __getitem__(self, index):
        return _wrap(self.host[_index(index)])

    def __setitem__(self, index, value) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if not isinstance(value, ndarray) and not np.isscalar(value) and not isinstance(value, np.ndarray):
            raise TypeError(f"an element cannot be set to {type(value)}")
        alone = isinstance(index, ndarray) and index.dtype == bool and np.ndim(_host(value)) == 0
        self.host[index.host if alone else _index(index)] = _host(value)  # a number where a mask is needs no waiting

    def astype(self, dtype, order="K", casting="unsafe", subok=None, copy=True):
        return self if not copy and self.dtype == dtype else _wrap(self.host.astype(dtype, order))

    def fill(self, value) -> None:
        self[...] = value


def _wrap(x):
    """A device array for NumPy's arrays and numbers, also inside tuples and lists; anything else as it is."""
    if isinstance(x, (np.ndarray, np.generic)):
        array = ndarray.__new__(ndarray)
        array.host = np.asarray(x)
        return array
    return type(x)(map(_wrap, x)) if type(x) in (tuple, list) else x


def _host(x):
    """What NumPy computes with for x; refuses NumPy's own arrays."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if type(x) in (tuple, list):
        return type(x)(map(_host, x))
    return x


def _index(index):
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    if isinstance(index, ndarray) and index.dtype == bool:
        _note("x[mask]")
    return _host(index)


def _note(what: str) -> None:
    """Tell those who count that the caller waits for the device."""
    if _notes:
        frame = sys._getframe(1)
        while frame.f_globals.get("__package__") == __package__:
            frame = frame.f_back
        for notes in _notes:
            notes.append(f"{what} at {frame.f_code.co_filename}:{frame.f_lineno}")
