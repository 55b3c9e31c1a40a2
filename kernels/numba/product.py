"""The matrix product C = A B in Numba's own threads: what four fifths of a training step is made of.

NumPy's product is BLAS's, whose threads are others than Numba's, and on few cores the two wait for each other longer
than either computes. This one is three ideas on a page (Goto & van de Geijn 2008, "Anatomy of high-performance matrix
multiplication"):

1. *Registers.* The `microkernel` holds a tile of C in vector registers while it runs along k.
2. *Packing.* A panel, the two vectors' columns of B for many k, is copied so that the microkernel reads it in a row;
   whatever the strides of B, transposed or not, are then paid for once and not for every row of A.
3. *Blocking.* k is cut into stretches of DEPTH, and PANELS panels are packed at a time: they stay in the second-level
   cache while all rows of A pass, ROWS at a time, which stay in the first-level cache while they meet the panels.

The threads share the columns or the rows of C, and no two write the same numbers, so that the result depends on nothing
but the operands. A and B may be transposed views: only their strides matter.
"""

import numba
import numpy as np
from numba import prange

from tinygrad_llm.kernels.numba.common import helper, leaf
from tinygrad_llm.kernels.numba.microkernel import BITS, ROWS, many_rows, one_row

DEPTH = 256  # of a stretch of k
PANELS = 8  # that are packed together


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (M, K) times b (K, N): (M, N), all of one floating dtype. Transposed views are as good as any."""
    (rows, depth), columns = a.shape, b.shape[1]
    c = np.empty((rows, columns), a.dtype)
    if not c.size or not depth:
        c[...] = 0
        return c
    if a.flags.f_contiguous and rows > 1:
        blocks = np.empty((-(-rows // ROWS), depth, ROWS), a.dtype)
        _pack_rows(a.T, blocks)
        a, strides = blocks, (depth * ROWS, 1, ROWS)
    else:
        strides = (ROWS * depth, depth, 1)
    transposed = b.flags.f_contiguous
    b = b.T if transposed else b
    b_strides = (1, depth) if transposed else (columns, 1)
    a, b = (np.ascontiguousarray(x).reshape(-1) for x in (a, b))
    _product(a, *strides, b, *b_strides, c, depth, numba.get_num_threads())
    return c


@leaf
def _product(a, a_block, a_row, a_column, b, b_row, b_column, c, depth, threads):
    rows, columns = c.shape
    lanes = BITS // 8 // c.itemsize
    wide = 2 * lanes
    flat, panels, blocks = c.reshape(-1), (columns + wide - 1) // wide, (rows + ROWS - 1) // ROWS
    # The threads share the columns where that comes out even, since each packs its own; else the rows.
    even = panels % threads == 0
    group, shares = min(PANELS, panels // threads if even else panels), 1 if even else min(threads, blocks)
    groups = (panels + group - 1) // group
    for task in prange(groups * shares):
        first, share = task % groups * group, task // groups
        last = min(first + group, panels)
        space = np.empty(group * DEPTH * wide + lanes, c.dtype)
        aligned = (-space.ctypes.data % (BITS // 8)) // c.itemsize
        packed, edge = space[aligned:], np.empty(ROWS * wide, c.dtype)
        for k in range(0, depth, DEPTH):
            length, add = min(DEPTH, depth - k), np.int64(k > 0)
            for j in range(first, last):
                count, to = min(wide, columns - j * wide), (j - first) * DEPTH * wide
                pack(b, k * b_row + j * wide * b_column, b_row, b_column, length, count, wide, packed[to:])
            for block in range(blocks * share // shares, blocks * (share + 1) // shares):
                at, i = block * a_block + k * a_column, block * ROWS
                high = min(ROWS, rows - i)
                for j in range(first, last):
                    panel, column = (j - first) * DEPTH * wide, j * wide
                    rim = column + wide > columns
                    out, start, stride, plus = flat, i * columns + column, columns, add
                    if rim:  # the tile is wider than what is left of C
                        out, start, stride, plus = edge, 0, wide, 0
                    if high == ROWS:
                        many_rows(a, at, a_row, a_column, packed, panel, wide, length, out, start, stride, plus)
                    else:
                        for r in range(high):
                            row, to = at + r * a_row, start + r * stride
                            one_row(a, row, a_row, a_column, packed, panel, wide, length, out, to, stride, plus)
                    if rim:
                        for r in range(high):
                            for x in range(columns - column):
                                old = c[i + r, column + x] if add else c.dtype.type(0)
                                c[i + r, column + x] = old + edge[r * wide + x]


@leaf
def _pack_rows(a, blocks):
    """blocks[i, k, :] = a[k, ROWS i : ROWS (i + 1)], for a transposed A: its rows ROWS at a time, next to each other.

    Along k they are whole rows of memory apart, which may all want the same few places in the cache.
    """
    depth, rows = a.shape
    for part in prange((depth + 31) // 32):
        for k in range(32 * part, min(32 * part + 32, depth)):
            for i in range(rows // ROWS):
                row, to = a[k, i * ROWS : i * ROWS + ROWS], blocks[i, k]
                for r in range(ROWS):
                    to[r] = row[r]
            for r in range(rows // ROWS * ROWS, rows):
                blocks[rows // ROWS, k, r % ROWS] = a[k, r]


@helper
def pack(b, start, b_row, b_column, depth, count, wide, panel):
    """panel[k, :] = b[k, first : first + count], then zeros up to its width."""
    if count < wide:
        panel[: depth * wide] = 0
    if b_column == 1:
        for k in range(depth):
            row, to = b[start + k * b_row : start + k * b_row + count], panel[k * wide : k * wide + count]
            for j in range(count):
                to[j] = row[j]
    else:
        for j in range(count):
            column = b[start + j * b_column : start + j * b_column + depth * b_row : b_row]
            for k in range(depth):
                panel[k * wide + j] = column[k]
