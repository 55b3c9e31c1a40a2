"""What stands in for `cupy.cuda`: one device, streams and events that are always done, and modules of kernels.

Work is done at once and in order, so there is nothing to wait for; but what a program says about it has to be said as
CuPy wants it.
"""

import time
from types import SimpleNamespace

import numpy as np

from tinygrad_llm.kernels.cuda.emulator import cublas
from tinygrad_llm.kernels.cuda.emulator.build import build


class Device:
    """The one device."""

    compute_capability = "90"
    mem_info = (2**33, 2**33)

    def __init__(self, id: int = 0):
        self.id = id

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        pass

    def __eq__(self, other) -> bool:
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None


class Event:
    """A moment between two pieces of work."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.time = 0.0

    def record(self, stream=None) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    done = True


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds between two events."""
    return (end.time - start.time) * 1000


class Stream:
    """Work in order. All streams are one here."""

    ptr = 0
    done = True

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.null = null

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        pass

    def use(self):
        return self

    def synchronize(self) -> None:
        pass

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        pass


Stream.null = Stream(null=True)


def get_current_stream() -> Stream:
    return Stream.null


class MemoryPool:
    """Counts nothing: arrays are the host's."""

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        pass

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        pass


_pool = MemoryPool()
ATTRIBUTES = {97: 227 * 1024}  # cudaDevAttrMaxSharedMemoryPerBlockOptin
runtime = SimpleNamespace(
    getDeviceCount=lambda: 1,
    deviceGetAttribute=lambda attribute, device: ATTRIBUTES[attribute],
    CUDARuntimeError=RuntimeError,
    **cublas.DATA_TYPES,
)
device = SimpleNamespace(get_cublas_handle=lambda: 0)


class RawModule:
    """A file of kernels, compiled for the emulator when the first of them is asked for."""

    def __init__(self, *, code: str, options=(), backend="nvrtc", name_expressions=None, **others):
        self.code, self.options = code, tuple(options)

    def compile(self, log_stream=None) -> None:
        self.library = build(self.code, options=self.options)

    def get_function(self, name: str) -> "Function":
        if not hasattr(self, "library"):
            self.compile()
        return Function(self.library.get_function(name))


class Function:
    """A kernel: called with a grid, a block and its arguments, as CuPy's."""

    def __init__(self, function):
        self.function = function

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self.function.max_dynamic_shared_size_bytes = size

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None) -> None:
        self.function(tuple(grid), tuple(block), tuple(_argument(x) for x in args), shared_mem)


def _argument(x):
    """A device array as NumPy's, and numbers as CuPy passes them: Python's are int64, float64 and bool."""
    if hasattr(x, "host"):
        return x.host
    if isinstance(x, np.generic):
        return x
    if type(x) in (bool, int, float):
        return np.asarray(x)[()]
    raise TypeError(f"Unsupported type {type(x)}")
