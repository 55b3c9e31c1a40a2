"""Numba's kernels without Numba, in plain Python: compiled mutants would take hours, and could write anywhere.

Their files are run as they are, but for what they import: a leaf runs its parts one after another, three of them; the
vectors of `simd` and `vectors`, which are written in LLVM's language, are NumPy arrays of four or eight numbers; memory
comes filled with NaN; and an access outside an array, or a leaf's array that is not contiguous, is an error.
"""

import inspect
import math
from types import SimpleNamespace

import numpy as np

PARTS = 3
SCRATCH = {}
BITS = 256  # as `vectors` has it on machines without 512-bit vectors


def leaf(function):
    """Every part finds the arrays as they were, as if all ran at once, and no two may write to the same place."""

    def run(*arguments):
        arrays = [x for x in arguments if isinstance(x, np.ndarray)]
        assert all(x.flags.c_contiguous for x in arrays)
        own = [id(x) for x in SCRATCH.values()]
        shared = [x.reshape(-1).view(np.uint8) for x in arrays if x.flags.writeable and id(x) not in own]
        before, after = [x.copy() for x in shared], [x.copy() for x in shared]
        for part in range(PARTS):
            function(part, PARTS, *arguments)
            for now, old, new in zip(shared, before, after, strict=True):
                written = now != old
                if (new[written] != old[written]).any():
                    raise RuntimeError("two threads write to the same place")
                new[written] = now[written]
            for now, old in zip(shared, before, strict=True):
                now[...] = old
        for now, new in zip(shared, after, strict=True):
            now[...] = new

    return run


class Bounded(np.ndarray):
    """An array whose negative places are none, and not those before its end."""

    def __setitem__(self, place, value):
        if isinstance(place, int | np.integer) and place < 0:
            raise IndexError(str(place))
        super().__setitem__(place, value)


def scratch(size, dtype):
    """Memory for each thread to work in, which is the same again and again."""
    if (size, dtype) not in SCRATCH:
        SCRATCH[size, dtype] = np.empty((PARTS, size), dtype).view(Bounded)
    SCRATCH[size, dtype].fill(np.nan)
    return SCRATCH[size, dtype]


def intrinsic(function):
    """Written in LLVM's language: its meaning is below."""
    meaning = MEANINGS.get(function.__name__)
    return meaning(**inspect.getclosurevars(function).nonlocals) if function.__name__ == "numbers" else meaning


def overload(function, **_options):
    """Calls of `function` go to what the decorated one gives for the dtypes of the arguments."""

    def enter(implementation):
        def call(*arguments):
            return implementation(*(np.asarray(x).dtype for x in arguments))(*arguments)

        function.__globals__[function.__name__] = call
        return implementation

    return enter


def at(x, start, count):
    """x[start : start + count], all of which must be there."""
    if not 0 <= start <= start + count <= x.size:
        raise IndexError(f"{start} to {start + count} of {x.size}")
    return x[start : start + count]


def unknown(shape, dtype, like=None):
    return np.full(shape, np.nan, dtype) if np.dtype(dtype).kind == "f" else np.empty(shape, dtype)


# simd


def lanes(x):
    return BITS // 8 // x.itemsize


def spread(like, number):
    return np.full(lanes(like), number, like.dtype)


def load(x, start):
    return at(x, start, lanes(x)).copy()


def load_first(x, start, count):
    count, vector = min(max(count, 0), lanes(x)), spread(x, 0)
    vector[:count] = at(x, start, count)
    return vector


def store(x, start, vector):
    at(x, start, lanes(x))[...] = vector


def store_first(x, start, vector, count):
    count = min(max(count, 0), lanes(x))
    at(x, start, count)[...] = vector[:count]


def keep_first(vector, count, other):
    return np.where(np.arange(vector.size) < count, vector, vector.dtype.type(other))


def keep_where(vector, keep, start, count):
    kept = at(keep, start, min(max(count, 0), vector.size))
    return np.where(np.pad(kept, (0, vector.size - kept.size)), vector, vector.dtype.type(0))


# vectors


def matrix(start, row, column, rows, columns):
    """The places of a matrix's numbers. None lies before the array: NumPy itself sees those behind it."""
    places = start + row * np.arange(rows)[:, None] + column * np.arange(columns)
    if places.size and places.min() < 0:
        raise IndexError(str(places.min()))
    return places


def multiply_tile(rows, vectors):
    def kernel(a, a_start, a_row, a_column, b, b_start, b_row, depth, s, s_start, s_row, c, c_start, c_row, columns):
        depth, wide = max(depth, 1), min(max(-(-columns // lanes(c)), 1), vectors) * lanes(c)
        before = s[matrix(s_start, s_row, 1, rows, wide)]
        left, right = a[matrix(a_start, a_row, a_column, rows, depth)], b[matrix(b_start, b_row, 1, depth, wide)]
        c[matrix(c_start, c_row, 1, rows, wide)] = before + left @ right

    return kernel


def copy(width):
    def kernel(x, x_start, y, y_start):
        at(y, y_start, width(x))[...] = at(x, x_start, width(x))

    return kernel


def transpose(width):
    def kernel(x, x_start, x_row, y, y_start, y_row):
        y[matrix(y_start, y_row, 1, lanes(x), width(x))] = x[matrix(x_start, x_row, 1, width(x), lanes(x))].T

    return kernel


# quants


def float16(x, blocks, start):
    return x.dtype.type(at(blocks, start, 2).view(np.float16)[0])


def signed(x, blocks, start):
    return at(blocks, start, lanes(x)).view(np.int8).astype(x.dtype)


def plain(x, blocks, start):
    return at(blocks, start, x.itemsize * lanes(x)).view(x.dtype).copy()


def four_bits(shift):
    return lambda x, blocks, start: ((at(blocks, start, lanes(x)) >> shift) & 15).astype(x.dtype)


MEANINGS = {"float16": float16, "signed": signed, "plain": plain, "numbers": four_bits}
NUMBA = "tinygrad_llm.kernels.numba"
INSTEAD = {  # of what kernels import
    "math": SimpleNamespace(**vars(math) | {"exp": np.exp}),  # infinity where Python's own would be an error
    "numba": SimpleNamespace(njit=lambda **_: lambda function: function, float32=np.dtype("float32"), types=None),
    "numba.extending": SimpleNamespace(intrinsic=intrinsic, overload=overload),
    "tinygrad_llm.memory": SimpleNamespace(empty=unknown, zeros=np.zeros),
    f"{NUMBA}.threads": SimpleNamespace(
        leaf=leaf,
        scratch=scratch,
        sums=lambda size, dtype: unknown((PARTS, size + 1), dtype),
        total_of=lambda sums, size: sums[:, :size].sum(axis=0),
    ),
    f"{NUMBA}.simd": SimpleNamespace(
        **{f.__name__: f for f in (load, load_first, store, store_first, spread, keep_first, keep_where)},
        **{"maximum": np.maximum, "largest": np.max, "total": np.sum, "exp": np.exp, "Vector": None},
        fma=lambda a, b, c: a * b + c,
        prefetch=lambda x, start: None,
    ),
    f"{NUMBA}.vectors": SimpleNamespace(
        **{f.__name__: f for f in (lanes, multiply_tile, copy, transpose)},
        **{"BITS": BITS, "AVX512": False, "NUMBERS": None, "by_type": lambda function: function},
    ),
}
