"""The matrix product C = A B in Numba's own threads: what four fifths of a training step is made of.

NumPy's product is BLAS's, whose threads are others than Numba's, and on few cores the two wait for each other longer
than either computes. Called by each of Numba's threads for its part of C, OpenBLAS was no faster in a training step
than this one, with vectors of 512 bits or of 256, and it can do nothing to rows of C while they are in the cache. This
one is four ideas on a page (Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication"):

1. *Registers.* `multiply_tile` holds a tile of C in vector registers while it runs along k.
2. *Packing.* It reads a strip of A, as many rows as the tile has, and a panel of B, as many columns. Both are copied
   first so that it reads one number after another: in the matrices they may lie a page of memory apart, and whether
   these were transposed is then paid for once, not in every tile.
3. *Blocking.* k is cut into stretches of DEPTH. PANELS panels of that length stay in the second-level cache while the
   rows of A pass, STRIPS strips at a time, each of which stays in the first-level cache while it meets the panels.
4. *Beginning and end.* A bias, or what C holds already, is what a tile's sum begins with, GELU is applied to rows of C
   that have just been computed, and the rows of A, the columns of dy where C is a weight's gradient, are added up for
   that of the bias when they have just been packed: they cost no pass over memory of their own.

Each thread computes rows of C of its own, or columns if C has more of those, so no two write the same numbers, and the
result depends on nothing but the operands. Rows go to threads as in the other kernels, so that a thread finds
what it left in its cache.
"""

import numpy as np

from tinygrad_llm.kernels.numba.common import constant, helper
from tinygrad_llm.kernels.numba.gelu import activate, activate_back
from tinygrad_llm.kernels.numba.simd import load_first, spread, store_first
from tinygrad_llm.kernels.numba.threads import leaf, scratch, total_of
from tinygrad_llm.kernels.numba.threads import sums as thread_sums
from tinygrad_llm.kernels.numba.vectors import AVX512, BITS, by_type, copy, lanes, multiply_tile, transpose
from tinygrad_llm.memory import empty

ROWS, VECTORS = 8 if AVX512 else 4, 3  # of a tile; their product, and four more, fit into the registers
DEPTH, PANELS, STRIPS = 384, 16, 12
SUMMED = 32  # numbers of a row whose sum is made apart: fewer roundings
NOTHING, FORWARD, BACKWARD = 0, 1, 2  # what comes after the product: gelu of it, or its product with gelu's derivative


def product(a, b, out=None, add=False, bias=None, sums=None, add_sums=False) -> np.ndarray:
    """a (M, K) times b (K, N), plus bias (N,): (M, N), all of one floating dtype. Transposed views are as good as any.

    The result is written to `out`, or with `add` added to it, if that is given: an array whose rows are side by side.
    The sum of each row of a is written, or with `add_sums` added, to `sums` (M,), if that is given.
    """
    return _multiplied(a, b, out, add, bias, NOTHING, sums=sums, add_sums=add_sums)


def product_gelu(a, b, bias, approximate) -> tuple[np.ndarray, np.ndarray]:
    """h = a b + bias, as `product`, and gelu(h)."""
    y = empty((len(a), b.shape[1]), a.dtype)
    return _multiplied(a, b, None, False, bias, FORWARD, approximate == "tanh", y, y), y


def product_gelu_back(a, b, h, approximate) -> tuple[np.ndarray, np.ndarray]:
    """a b, as `product`, times gelu'(h), and gelu(h): h (M, N) as the result."""
    y = empty(h.shape, h.dtype)
    return _multiplied(a, b, None, False, None, BACKWARD, approximate == "tanh", h, y), y


def _multiplied(a, b, out, add, bias, then, approximate=False, h=None, y=None, sums=None, add_sums=False):
    if a.shape[1] == 0:  # nothing to add up, but a beginning and an end
        a, b = np.zeros((len(a), 1), a.dtype), np.zeros((1, b.shape[1]), a.dtype)
    (rows, depth), columns = a.shape, b.shape[1]
    bias = constant(columns, 0, a.dtype) if bias is None else np.ascontiguousarray(bias)
    c = empty((rows, columns), a.dtype) if out is None else out
    flat = c.reshape(-1)
    gelu = then, approximate, *(flat if x is None else np.ascontiguousarray(x).reshape(-1) for x in (h, y))
    sums, wide = flat[:0] if sums is None else sums, VECTORS * BITS // (8 * c.itemsize)
    memory = scratch(ROWS * wide + DEPTH * (PANELS * wide + STRIPS * ROWS), c.dtype)  # an edge, panels, and strips
    _product(*_flat(a), *_flat(b), c, depth, bias, add, *gelu, sums, add_sums, memory)
    return c


def _flat(x: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A matrix as its numbers in the order of memory, and the strides of its rows and columns."""
    if x.flags.f_contiguous:
        return x.T.reshape(-1), 1, x.shape[0]
    return np.ascontiguousarray(x).reshape(-1), x.shape[1], 1


@by_type
def strip_width(array) -> int:
    """How many rows of A a tile has."""
    return ROWS


@by_type
def panel_width(array) -> int:
    """How many columns of B a tile has."""
    return VECTORS * lanes(array)


def packer(width, unit):
    """The function that copies a matrix X (depth, count) into slices of `width` columns, each k after k.

    It copies `unit` columns at a time, the last filled up with zeros, so that no NaN comes into the rims of tiles.
    """
    copy_one, transpose_one = copy(unit), transpose(unit)

    @helper
    def pack(x, start, x_row, x_column, depth, count, packed):
        wide, few, vector = width(packed), unit(packed), lanes(packed)
        whole, deep = count // few * few, depth // vector * vector if x_column != 1 else depth
        if x_column == 1:
            for k in range(depth):
                for j in range(0, whole, few):
                    copy_one(x, start + k * x_row + j, packed, (j // wide * depth + k) * wide + j % wide)
        else:
            for j in range(0, whole, few):
                slot = j // wide * depth * wide + j % wide
                for k in range(0, deep, vector):
                    transpose_one(x, start + k * x_row + j * x_column, x_column, packed, slot + k * wide, wide)
        for k in range(depth):
            for j in range(whole if k < deep else 0, -(-count // few) * few):
                number = x[start + k * x_row + j * x_column] if j < count else packed.dtype.type(0)
                packed[(j // wide * depth + k) * wide + j % wide] = number

    return pack


pack_strips = packer(strip_width, strip_width)
pack_panels = packer(panel_width, lanes)
multiply_strip = multiply_tile(ROWS, VECTORS)


@helper
def paste(x, x_row, y, y_row, rows, columns):
    """Y = X, of so many rows and columns."""
    for i in range(rows):
        for j in range(columns):
            y[i * y_row + j] = x[i * x_row + j]


@helper
def add_strips(strips, depth, rows, sums):
    """sums[i] += the sum of row i, of `rows` rows packed in strips. A strip's rows are no more than a vector has."""
    for i in range(0, rows, ROWS):
        count = min(ROWS, rows - i)
        added = load_first(sums, i, count)
        for start in range(0, depth, SUMMED):
            few = spread(sums, 0.0)
            for k in range(start, min(start + SUMMED, depth)):
                few = few + load_first(strips, i * depth + k * ROWS, count)
            added = added + few
        store_first(sums, i, added, count)


@leaf
def _product(
    part, parts, a, a_row, a_column, b, b_row, b_column, c, depth, bias, add, then, tanh, h, g, sums, add_sums, scratch
):
    (rows, columns), c_row, c, wide, memory = c.shape, c.shape[1], c.reshape(-1), panel_width(c), scratch[part]
    if columns >= rows:  # this thread's part is some columns
        count = (columns + wide - 1) // wide
        first, columns = count * part // parts * wide, min(count * (part + 1) // parts * wide, columns)
        columns -= first
        b, c, bias, h, g = b[first * b_column :], c[first:], bias[first:], h[first:], g[first:]
        sums = sums if part == parts - 1 else sums[:0]  # the last has columns
    else:  # or some rows
        count = (rows + ROWS - 1) // ROWS
        first, rows = count * part // parts * ROWS, min(count * (part + 1) // parts * ROWS, rows)
        rows -= first
        a, c, h, g, sums = a[first * a_row :], c[first * c_row :], h[first * c_row :], g[first * c_row :], sums[first:]
    edge, panels, strips = memory, memory[ROWS * wide :], memory[(ROWS + PANELS * DEPTH) * wide :]
    for k in range(0, depth, DEPTH):
        length = min(DEPTH, depth - k)
        s, s_row = (c, c_row) if add or k > 0 else (bias, 0)  # what the sum begins with
        for j in range(0, columns, PANELS * wide):
            right = min(columns, j + PANELS * wide)
            pack_panels(b, k * b_row + j * b_column, b_row, b_column, length, right - j, panels)
            for i in range(0, rows, STRIPS * ROWS):
                bottom = min(rows, i + STRIPS * ROWS)
                pack_strips(a, k * a_column + i * a_row, a_column, a_row, length, bottom - i, strips)
                if sums.size and j == 0:
                    for row in range(i, bottom if k == 0 and not add_sums else i):
                        sums[row] = 0
                    add_strips(strips, length, bottom - i, sums[i:])
                for y in range(i, bottom, ROWS):
                    for x in range(j, right, wide):
                        strip, panel, before, after = (y - i) * length, (x - j) * length, y * s_row + x, y * c_row + x
                        high, broad = min(ROWS, rows - y), min(wide, columns - x)  # of the tile, what C has
                        whole = high == ROWS and broad % lanes(c) == 0
                        if whole:
                            tile = s, before, s_row, c, after, c_row
                        else:
                            paste(s[before:], s_row, edge, wide, high, broad)
                            tile = edge, 0, wide, edge, 0, wide
                        multiply_strip(strips, strip, 1, ROWS, panels, panel, wide, length, *tile, broad)
                        if not whole:
                            paste(edge, wide, c[after:], c_row, high, broad)
                    for row in range(y, min(y + ROWS, rows) if then != NOTHING and k + DEPTH >= depth else y):
                        span = slice(row * c_row + j, row * c_row + right)
                        if then == FORWARD:
                            activate(c[span], g[span], tanh)
                        else:
                            activate_back(c[span], h[span], g[span], tanh)


def column_sums(x: np.ndarray) -> np.ndarray:
    """The sum of x (M, N) over its rows: (N,). Each thread adds up rows of its own."""
    added = thread_sums(x.shape[1], x.dtype)
    _add_rows(np.ascontiguousarray(x), added)
    return total_of(added, x.shape[1])


@leaf
def _add_rows(part, parts, x, added):
    mine = added[part]
    for j in range(x.shape[1]):
        mine[j] = 0
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        row = x[i]
        for j in range(row.size):
            mine[j] += row[j]
