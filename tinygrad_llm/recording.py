"""Writing down what a step does, while it does it, so that it can be done again without Python.

Kernels write down their launches themselves. What else is computed between them, on the host, is given to `repeated`,
and what Python finds in arrays and acts upon, to `decided`; outside of a `Recording` both are plain calls.
"""

import contextlib
import contextvars
import heapq
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

LINE = 64  # bytes, of the cache
PAGE = 4096  # bytes

_recording: contextvars.ContextVar["Recording | None"] = contextvars.ContextVar("recording", default=None)


class Changed(Exception):
    """What `decided` found is no longer so: the record does not hold for these arrays."""


class Arena:
    """Memory of arrays that come and go in the same order in every step: each is in the same place every time.

    What one array gives up is for the next of its size.
    """

    def __init__(self):
        self.blocks: list[np.ndarray] = []
        self.free: dict[int, list[int]] = {}  # by size, the numbers of the blocks that nobody has

    def empty(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        size = max(-(-math.prod(shape) * dtype.itemsize // LINE), 1) * LINE
        free = self.free.setdefault(size, [])
        number = heapq.heappop(free) if free else self._new(size)
        block = np.frombuffer(memoryview(self.blocks[number]), np.uint8)  # views of it keep it, not what is below
        weakref.finalize(block, heapq.heappush, free, number).atexit = False
        return np.ndarray(shape, dtype, block)

    def _new(self, size: int) -> int:
        memory = np.empty(size + PAGE, np.uint8)
        start = -address(memory) % PAGE if size >= PAGE else -address(memory) % LINE
        self.blocks.append(memory[start : start + size])
        return len(self.blocks) - 1

    def lasting(self, x):
        """An array of the arena as one that does not keep others from its memory; anything else as it is."""
        if isinstance(x, np.ndarray):
            for block in self.blocks:
                if 0 <= (start := address(x) - address(block)) < block.size:
                    return np.ndarray(x.shape, x.dtype, block, start, x.strides)
        return x


class Recording:
    """Inside a `with` block, what is done goes into `program`, and arrays of `memory.empty` are in `arena`.

    Two recordings are equal if they have the same calls, on arrays in the same places.
    """

    def __init__(self, program: Any, arena: Arena):
        self.program, self.arena = program, arena
        self.calls: list[tuple] = []

    def __enter__(self) -> "Recording":
        self.token = _recording.set(self)
        return self

    def __exit__(self, *exception) -> None:
        _recording.reset(self.token)

    def __eq__(self, other) -> bool:
        return isinstance(other, Recording) and self.calls == other.calls

    def launch(self, kernel: Callable, arguments: tuple) -> None:
        """Write down a launch of a kernel."""
        self.program.add(kernel, *self._lasting(kernel, arguments))

    def call(self, function: Callable, arguments: tuple) -> None:
        """Write down a call of a function of the host's."""
        self.program.call(function, *self._lasting(function, arguments))

    def _lasting(self, function: Callable, arguments: tuple) -> Iterator:
        self.calls.append((function, *map(_identity, arguments)))
        return map(self.arena.lasting, arguments)


def recording() -> Recording | None:
    """The one that is being made here, if any."""
    return _recording.get()


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Inside this block nothing is recorded: for what is made once, and then kept for all steps."""
    token = _recording.set(None)
    try:
        yield
    finally:
        _recording.reset(token)


def repeated(function: Callable, *arguments) -> None:
    """Call a function that writes into arrays, or raises an error; and again in every run of what is recorded here."""
    function(*arguments)
    if made := _recording.get():
        made.call(function, arguments)


def decided(function: Callable, *arguments):
    """What a function finds in arrays, for Python to act upon: a run of what is recorded here raises `Changed` where
    it finds something else."""
    found = function(*arguments)
    if made := _recording.get():
        made.call(_expect, (found, function, *arguments))
    return found


def _expect(found, function, *arguments) -> None:
    if function(*arguments) != found:
        raise Changed


def assign(x, y) -> None:
    x[...] = y


def address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def _identity(x):
    return (address(x), x.shape, x.strides, x.dtype.str) if isinstance(x, np.ndarray) else x
