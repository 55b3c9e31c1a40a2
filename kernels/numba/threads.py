"""Leaves that compile fast: a plain function of (part, parts, ...) that every thread runs, each its part.

Numba compiles a loop over threads together with all that is in it, several times over, which for `product` and
`attention` takes ten seconds each. Here the loop is apart, compiled once for all: it is given the address of a function
and that of the function's arguments, and calls the one with the other on every thread.
"""

import threading
from collections.abc import Callable

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from tinygrad_llm.kernels.numba.common import FASTMATH, VERSION
from tinygrad_llm.memory import empty
from tinygrad_llm.recording import recording, unrecorded

INDEX = ir.IntType(64)
THREE = (types.int64,) * 3
ARGUMENT = 128  # bytes: more than a number takes, or what says where an array of up to four axes is
MOST = 64  # arguments of a leaf
APART = 32  # numbers: two lines of the cache, which are fetched together
_kept = threading.local()


def leaf(function: Callable) -> Callable:
    """Compile `function(part, parts, *arguments)` at its first use and run it on Numba's threads, a part on each.

    It returns nothing. The result takes the arguments: numbers, and arrays that are contiguous, since the machine code
    is chosen by their dtypes alone.
    """
    function.__qualname__ += f"_{VERSION}"
    options = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": FASTMATH}
    compiled = numba.njit(no_cpython_wrapper=True, **options)(function)
    addresses: dict[tuple, tuple[int, int]] = {}

    def addresses_for(arguments: tuple) -> tuple[int, int]:
        key = tuple([x.dtype if isinstance(x, np.ndarray) else type(x) for x in arguments])
        if key not in addresses:
            types_ = types.int64, types.int64, *(numba.typeof(x) for x in arguments)
            addresses[key] = _address(_on_each_thread, THREE), _address(compiled, types_)
        return addresses[key]

    def run(*arguments) -> None:
        if made := recording():
            made.launch(run, arguments)
        on_each_thread, function = addresses_for(arguments)
        place = _place()
        _launch(on_each_thread, bind(function, arguments, place), place, numba.get_num_threads())

    run.addresses_for = addresses_for
    return run


def scratch(size: int, dtype) -> np.ndarray:
    """(threads, at least size): memory for each thread to work in, kept: it is in the cache when it is wanted again."""
    kept, size = _kept.__dict__, -(-size // APART) * APART
    if dtype.char not in kept or kept[dtype.char].shape[1] < size:
        with unrecorded():
            kept[dtype.char] = empty((numba.config.NUMBA_NUM_THREADS, size), dtype)
    return kept[dtype.char]


def sums(size: int, dtype) -> np.ndarray:
    """(threads, at least size): for each thread to clear, and add into, and `total_of` to add up in the end.

    The rows lie apart: a line of memory that two threads write to in turn goes back and forth between their caches.
    """
    return empty((numba.get_num_threads(), (-(-size // APART) + 1) * APART), dtype)


def total_of(sums: np.ndarray, size: int) -> np.ndarray:
    """(size,): what all threads have added up, in the order of the threads."""
    total = empty((size,), sums.dtype)
    _add_up(sums, total)
    return total


@leaf
def _add_up(part, parts, sums, total):
    for i in range(total.size * part // parts, total.size * (part + 1) // parts):
        total[i] = 0
        for thread in range(len(sums)):
            total[i] += sums[thread, i]


def _address(compiled, signature: tuple) -> int:
    """Where the machine code for arguments of these types is, compiled or read from the cache."""
    compiled.compile(signature)
    code = compiled.overloads[signature]
    return code.library.get_pointer_to_function(code.fndesc.llvm_cfunc_wrapper_name)


@numba.njit(parallel=True, nogil=True, cache=True)
def _on_each_thread(function, data, threads):
    for thread in prange(threads):
        _call(function, np.int64(thread), threads, data)


@numba.njit(nogil=True, cache=True)
def _launch(on_each_thread, caller, place, threads):
    _call(on_each_thread, caller, place, threads)


def _place() -> int:
    """Where the arguments of this thread's launches stand, one after another."""
    if "place" not in _kept.__dict__:
        _kept.memory = np.empty(MOST * ARGUMENT, np.uint8)
        _kept.place = _kept.memory.ctypes.data
    return _kept.place


@numba.njit(nogil=True, cache=True)
def bind(function, arguments, place):
    """Put the function's address and the arguments at `place`, and return the address of a function of a thread's
    number, the threads, and `place`, that calls the one with the others."""
    return _pack(function, arguments, place)


@numba.njit(nogil=True, cache=True)
def run_all(calls, threads):
    """Launch one after another: (calls, 3), the address of `_on_each_thread`, and what `bind` gave and was given."""
    for i in range(len(calls)):
        _call(calls[i, 0], calls[i, 1], calls[i, 2], threads)


@intrinsic
def _call(typing_context, function, a, b, c):
    """Call the function at this address with three whole numbers."""

    def generate(context, builder, signature, values):
        function, *rest = values
        builder.call(builder.inttoptr(function, ir.FunctionType(ir.VoidType(), [INDEX] * 3).as_pointer()), rest)
        return context.get_dummy_value()

    return types.none(types.int64, *THREE), generate


@intrinsic
def _pack(typing_context, function, arguments, place):
    """As `bind`. The arrays come without their owners, whom the caller keeps: threads that counted references to them
    would all write to the same number, at every slice they take.
    """

    def generate(context, builder, signature, values):
        kinds = [INDEX, *(context.get_value_type(kind) for kind in arguments)]
        data = ir.LiteralStructType(kinds)
        name = builder.module.get_unique_name("caller")
        caller = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [INDEX] * 3), name)
        caller.linkage = "internal"
        inside = ir.IRBuilder(caller.append_basic_block())
        thread, threads, place = caller.args
        target, *loaded = cgutils.unpack_tuple(inside, inside.load(inside.inttoptr(place, data.as_pointer())))
        kind = ir.FunctionType(context.get_value_type(types.none), [INDEX, INDEX, *kinds[1:]])
        inside.call(inside.inttoptr(target, kind.as_pointer()), [thread, threads, *loaded])
        inside.ret_void()
        given = zip(arguments, cgutils.unpack_tuple(builder, values[1]), strict=True)
        content = [values[0], *(_borrowed(context, builder, kind, value) for kind, value in given)]
        memory = builder.inttoptr(values[2], data.as_pointer())
        builder.store(cgutils.make_anonymous_struct(builder, content, data), memory)
        return builder.ptrtoint(caller, INDEX)

    return types.int64(function, arguments, types.int64), generate


def _borrowed(context, builder, kind, value):
    """An array without its owner; anything else as it is."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    return array._getvalue()
