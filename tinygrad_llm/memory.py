"""Where arrays lie in memory, and that what one step frees the next one has."""

import contextlib
import ctypes
import math
import re
import sys
from pathlib import Path

import numpy as np

from tinygrad_llm.devices import on_device
from tinygrad_llm.recording import PAGE, address, assign, recording, repeated

LARGE_PAGES = 2**30  # bytes of addresses, not of memory
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of mallopt(3), in glibc


def empty(shape: tuple[int, ...], dtype, like=None) -> np.ndarray:
    """As numpy.empty, `like` an array on the same device, but a larger array begins at a page of the host's memory.

    So its vectors lie in one line of the cache each. And a processor that reads x[i + 1] while it still writes y[i]
    compares the last twelve bits of the addresses alone: were they equal, the reading would wait for the writing, and
    a loop over both take three times as long. Between arrays that begin at a page they never are.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if (made := recording()) and not on_device(like):
        return made.arena.empty(shape, dtype)
    if size < 4 * PAGE or on_device(like):
        return np.empty(shape, dtype, like=like)
    memory = np.empty(size + PAGE, np.uint8)
    start = -address(memory) % PAGE
    return np.ndarray(shape, dtype, memory, start)


def zeros(shape: tuple[int, ...], dtype, like=None) -> np.ndarray:
    """As numpy.zeros, where `empty` would put it."""
    array = empty(shape, dtype, like)
    repeated(assign, array, 0)
    return array


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory for what is allocated next, rather than to give it back to the system.

    A training step allocates and frees the same arrays as the one before. By default the large ones come from the
    system each time, page by page as they are first written, which took a fifth of a small model's step. Where the C
    library has no such setting, nothing is changed.

    NumPy asks the system for large pages, of 2 MB, where it makes an array of at least 4 MB. One that is made, and
    given up unwritten, lets all that later lies in its place have them, smaller arrays too: a processor knows by heart
    where some 2000 pages are, and the arrays of a small model's step have more than that of the common size.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TOP_PAD, 64 * 2**20)
        with contextlib.suppress(MemoryError):
            np.empty(LARGE_PAGES, np.uint8)


def peak_megabytes() -> float:
    """The most memory that this program has held so far; 0 where the system does not say."""
    with contextlib.suppress(OSError, TypeError):
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    return 0.0
