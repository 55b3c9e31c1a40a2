"""Attention a strip of queries at a time: `tinygrad_llm.ops.attention` has the definition and the derivation.

The (T, S) scores and probabilities are the largest arrays of a small GPT, and with a causal mask half of them is
nothing. Here a thread takes one head, and of it as many queries as a tile (`vectors.multiply_tile`) has rows. Their
scores are a strip that stays in the cache, only as long as what they may see, so that of the masked half hardly any is
made: scores, softmax and y = p v are done with it before the next strip begins. Kept for the backward is, for each
query, lse = log sum_j e^{s_j}, from which it makes the strip again, p = e^{s - lse}, as in FlashAttention (Dao et al.
2022, https://arxiv.org/abs/2205.14135).

All products are tiles. What meets the queries, k and v in s = q k^T and dp = dy v^T, is packed in panels, transposed;
what the strips are multiplied with lies row by row. The backward adds to dk = ds^T q and dv = p^T dy after every BLOCK
queries, so that these sums run over more than one strip. A thread finishes a head before the next, and the heads of q
that share one of k and v are the same thread's, so no two threads write the same numbers.

Rows and columns beyond the last are zeros, in scratch memory, so that every tile is whole. A zero does not hide what is
not finite in v (0 · NaN is NaN): then queries go one by one, and only those that may see it do.

Masks other than the causal one take the page's own functions.
"""

import math
from functools import lru_cache

import numpy as np

from tinygrad_llm.kernels.numba.common import helper
from tinygrad_llm.kernels.numba.simd import (
    exp,
    keep_first,
    keep_where,
    largest,
    load,
    load_first,
    maximum,
    prefetch,
    spread,
    store,
    store_first,
    total,
)
from tinygrad_llm.kernels.numba.threads import leaf, scratch
from tinygrad_llm.kernels.numba.vectors import AVX512, BITS, by_type, lanes, multiply_tile, transpose
from tinygrad_llm.memory import empty
from tinygrad_llm.ops import attention as page
from tinygrad_llm.random import booleans

ROWS, VECTORS = (6, 4) if AVX512 else (4, 3)  # of a tile
BLOCK = 8 * ROWS  # queries whose part of dk and dv is added at once
NO_DROPOUT = np.empty(0, bool)
multiply_strip = multiply_tile(ROWS, VECTORS)


@by_type
def panel_width(array) -> int:
    """How many columns a tile has."""
    return VECTORS * lanes(array)


transpose_panel = transpose(panel_width)


def attention_forward(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    keep = booleans(keep, q)
    same_sizes = q.ndim == 4 and k.shape == v.shape and q.shape[::3] == k.shape[::3] and q.shape[1] % k.shape[1] == 0
    same_sizes = same_sizes and (keep is None or keep.shape == (*q.shape[:3], k.shape[2]))
    if attn_mask is not None or not same_sizes:
        y, *saved = page.forward(q, k, v, attn_mask, keep, dropout_p, is_causal, scale)
        return y, page.backward, saved
    q, k, v = (np.ascontiguousarray(x) for x in (q, k, v))
    shape = (*q.shape[:2], k.shape[1], q.shape[2], *k.shape[2:])
    settings = Settings(q.dtype, shape, keep, dropout_p, is_causal, scale)
    strides = strides_of(q), strides_of(k), strides_of(q)
    y = empty(q.shape, q.dtype)
    lse = settings.forward(q.reshape(-1), k.reshape(-1), v.reshape(-1), y.reshape(-1), strides)
    return y, _backward, (q, k, v, lse, settings, strides)


def attention_backward(dy, backward, saved, needs):
    return backward(dy, *saved, needs)


def _backward(dy, q, k, v, lse, settings, strides, needs):
    gradients = [empty(x.shape, x.dtype) for x in (q, k, v)]
    arrays = [x.reshape(-1) for x in (np.ascontiguousarray(dy), q, k, v, *gradients)]
    settings.backward(*arrays, lse, strides)
    return tuple(gradients)


def strides_of(x) -> tuple[int, int, int]:
    """How many numbers the batches, heads and rows of a contiguous (B, H, T, D) are apart."""
    _, heads, rows, size = x.shape
    return heads * rows * size, rows * size, size


@lru_cache(maxsize=64)
def numbers(*nested) -> np.ndarray:
    """Whole numbers as an array, which nobody writes to."""
    return np.array(nested)


@lru_cache(maxsize=64)
def layout(*sizes: int) -> np.ndarray:
    """Where in memory parts of these sizes begin, one after another, and where the last ends. Nobody writes to it."""
    return np.cumsum((0, *sizes))


class Settings:
    """What forward and backward have in common. `shape` is (B, H, H_kv, T, S, D)."""

    def __init__(self, dtype, shape, keep, dropout_p, is_causal, scale):
        self.dtype, self.shape, self.is_causal = dtype, shape, bool(is_causal)
        self.keep = NO_DROPOUT if keep is None else np.ascontiguousarray(keep, bool).reshape(-1)
        self.factor = dtype.type(1 / (1 - dropout_p) if dropout_p < 1 else 0)
        self.scale = dtype.type(1 / math.sqrt(shape[-1]) if scale is None else scale)
        vector = BITS // 8 // dtype.itemsize
        self.wide = VECTORS * vector
        self.width = -(-shape[5] // vector) * vector  # D in whole vectors, and S in whole tiles
        self.length = -(-shape[4] // self.wide) * self.wide
        self.row = self.length + self.wide  # of strips: a tile reads beyond the last key

    def forward(self, q, k, v, y, strides) -> np.ndarray:
        """Fill y and return lse (B, H, T). The arrays are flat, `strides` those of q's, k's and y's (B, H, T)."""
        lse = empty((self.shape[0], self.shape[1], self.shape[3]), self.dtype)
        matrix = self.length * self.width
        places = layout(self.wide, matrix, matrix, ROWS * self.width, ROWS * self.row, ROWS * self.width, ROWS)
        _forward(q, k, v, y, lse, *self._arguments(strides, places))
        return lse

    def backward(self, dy, q, k, v, dq, dk, dv, lse, strides) -> None:
        """Fill dq, dk and dv, which have the strides of q and k, as dy has those of y."""
        matrix, strips, rows = self.length * self.width, BLOCK * self.row, (self.shape[4] + ROWS) * self.width
        blocks = BLOCK * self.width, BLOCK * self.width, strips, strips, ROWS * self.width
        places = layout(self.wide, matrix, matrix, matrix, *blocks, rows, rows)
        _backward_heads(dy, q, k, v, dq, dk, dv, lse, *self._arguments(strides, places))

    def _arguments(self, strides, places) -> tuple:
        sizes = numbers(*self.shape, self.width, self.length, self.row), numbers(*strides), places
        return self.keep, *sizes, self.scale, self.factor, self.is_causal, scratch(int(places[-1]), self.dtype)


@helper
def tiles(x, a, a_row, a_column, b, b_panel, b_row, depth, s, c, c_row, columns):
    """C = S + A B in the array x, ROWS rows and so many columns of them. S is C if s == c, else one row for all."""
    wide = panel_width(x)
    s_row, s_step = (c_row, 1) if s == c else (0, 0)
    for j in range(0, columns, wide):
        before, panel = s + j * s_step, b + j // wide * b_panel
        multiply_strip(x, a, a_row, a_column, x, panel, b_row, depth, x, before, s_row, x, c + j, c_row, columns - j)


@helper
def clear(x, start, end):
    """x[start:end] = 0"""
    for j in range(start, end, lanes(x)):
        store(x, j, spread(x, 0.0))


@helper
def read_rows(x, start, row, y, to, width, rows, size):
    """Y, `width` numbers a row, = `rows` rows of X of `size` numbers, `row` apart."""
    for i in range(rows):
        for j in range(0, size, lanes(x)):
            store(y, to + i * width + j, load_first(x, start + i * row + j, size - j))


@helper
def write_row(x, start, factor, y, to, size):
    """y[to : to + size] = factor x[start:]"""
    for j in range(0, size, lanes(x)):
        store_first(y, to + j, load(x, start + j) * factor, size - j)


@helper
def pack_transposed(x, rows, width, length, columns):
    """The matrix of `length` rows as panels of its transpose: a panel has a tile's columns, a row each."""
    wide = panel_width(x)
    for r in range(0, length, wide):
        for d in range(0, width, lanes(x)):
            transpose_panel(x, rows + r * width + d, width, x, columns + r * width + d * wide, wide)


@helper
def finite(x, start, end):
    """Whether x[start:end] has neither NaN nor infinity."""
    sums = spread(x, 0.0)
    for j in range(start, end, lanes(x)):
        sums = sums + load(x, j) * 0.0
    return total(sums) == 0


@helper
def fetch(x, start, size):
    """Ask for a row that is wanted soon."""
    for j in range(0, size, 64 // x.itemsize):
        prefetch(x, start + j)


@helper
def drop(x, start, keep, at, size, factor):
    """Dropout of a row."""
    for j in range(0, size, lanes(x)):
        store(x, start + j, keep_where(load(x, start + j) * factor, keep, at + j, size - j))


@helper
def softmax(x, start, seen, size, scale):
    """Turn a row of q k^T into e^{s - max s}, 0 from `seen` on; lse, and what makes the row sum to 1."""
    top = spread(x, -np.inf)
    for j in range(0, size, lanes(x)):
        s = keep_first(load(x, start + j) * scale, seen - j, -np.inf)
        store(x, start + j, s)
        top = maximum(top, s)
    highest, sums = largest(top), spread(x, 0.0)
    for j in range(0, size, lanes(x)):
        p = exp(load(x, start + j) - highest)
        store(x, start + j, p)
        sums = sums + p
    s = total(sums)
    return highest + np.log(s), 1 / s


@helper
def softmax_backward(x, p_start, ds_start, lse, seen, size, scale):
    """Turn rows of q k^T and dp into p and scale ds, ds = p (dp - sum_j dp_j p_j)."""
    sums = spread(x, 0.0)
    for j in range(0, size, lanes(x)):
        p = exp(keep_first(load(x, p_start + j) * scale, seen - j, -np.inf) - lse)
        store(x, p_start + j, p)
        sums = sums + p * load(x, ds_start + j)
    dot = total(sums)
    for j in range(0, size, lanes(x)):
        store(x, ds_start + j, load(x, p_start + j) * (load(x, ds_start + j) - dot) * scale)


@leaf
def _forward(thread, threads, q, k, v, y, lse, keep, shape, strides, places, scale, factor, is_causal, scratch):
    batch, heads, groups, queries, keys, size = shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]
    width, length, row, q_row, k_row, y_row = shape[6], shape[7], shape[8], strides[0, 2], strides[1, 2], strides[2, 2]
    zeros, k_columns, v_rows, strip, scores, out, inverses = (
        places[0], places[1], places[2], places[3], places[4], places[5], places[6]
    )  # fmt: skip
    x, one, wide = scratch[thread], np.int64(1), np.int64(panel_width(scratch))
    clear(x, zeros, inverses)
    for i in range(batch * heads * thread // threads, batch * heads * (thread + 1) // threads):
        b, h = i // heads, i % heads
        q_start, y_start = b * strides[0, 0] + h * strides[0, 1], b * strides[2, 0] + h * strides[2, 1]
        k_start = b * strides[1, 0] + h * groups // heads * strides[1, 1]
        next_start = (i + 1) // heads * strides[1, 0] + (i + 1) % heads * groups // heads * strides[1, 1]
        read_rows(k, k_start, k_row, x, v_rows, width, keys, size)
        pack_transposed(x, v_rows, width, length, k_columns)
        read_rows(v, k_start, k_row, x, v_rows, width, keys, size)
        tall = ROWS if finite(x, v_rows, strip) else 1
        for start in range(0, queries, tall):
            count = min(tall, queries - start)
            seen = min(start + count, keys) if is_causal else keys
            read_rows(q, q_start + start * q_row, q_row, x, strip, width, count, size)
            tiles(x, strip, width, one, k_columns, width * wide, wide, size, zeros, scores, row, seen)
            for r in range(count):
                t = start + r
                mine = min(t + 1, keys) if is_causal else keys
                fetch(k, next_start + t * k_row, size)
                fetch(v, next_start + t * k_row, size)
                fetch(q, q_start + (t + ROWS) * q_row, size)
                fetch(y, y_start + t * y_row, size)
                lse[b, h, t], x[inverses + r] = softmax(x, scores + r * row, mine, seen, scale)
                if keep.size:
                    drop(x, scores + r * row, keep, ((b * heads + h) * queries + t) * keys, mine, factor)
            tiles(x, scores, row, one, v_rows, wide, width, seen, zeros, out, width, size)
            for r in range(count):
                write_row(x, out + r * width, x[inverses + r], y, y_start + (start + r) * y_row, size)


@leaf
def _backward_heads(
    thread, threads, dy, q, k, v, dq, dk, dv, lse, keep, shape, strides, places, scale, factor, is_causal, scratch
):
    batch, heads, groups, queries, keys, size = shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]
    width, length, row, q_row, k_row, y_row = shape[6], shape[7], shape[8], strides[0, 2], strides[1, 2], strides[2, 2]
    zeros, k_columns, v_columns, k_rows, q_rows, dy_rows, p, ds, out, dk_rows, dv_rows, end = (
        places[0], places[1], places[2], places[3], places[4], places[5],
        places[6], places[7], places[8], places[9], places[10], places[11],
    )  # fmt: skip
    x, one, wide = scratch[thread], np.int64(1), np.int64(panel_width(scratch))
    shared, unit = heads // groups, scratch.dtype.type(1)
    clear(x, zeros, end)
    for i in range(batch * groups * thread // threads, batch * groups * (thread + 1) // threads):
        b, g = i // groups, i % groups
        k_start = b * strides[1, 0] + g * strides[1, 1]
        next_start = (i + 1) // groups * strides[1, 0] + (i + 1) % groups * strides[1, 1]
        read_rows(v, k_start, k_row, x, k_rows, width, keys, size)
        pack_transposed(x, k_rows, width, length, v_columns)
        read_rows(k, k_start, k_row, x, k_rows, width, keys, size)
        pack_transposed(x, k_rows, width, length, k_columns)
        clear(x, dk_rows, end)
        for h in range(g * shared, (g + 1) * shared):
            q_start, y_start = b * strides[0, 0] + h * strides[0, 1], b * strides[2, 0] + h * strides[2, 1]
            for start in range(0, queries, BLOCK):
                block = min(BLOCK, queries - start)
                read_rows(q, q_start + start * q_row, q_row, x, q_rows, width, block, size)
                read_rows(dy, y_start + start * y_row, y_row, x, dy_rows, width, block, size)
                for top in range(0, block, ROWS):
                    count, at, s_at, dp_at = min(ROWS, block - top), top * width, p + top * row, ds + top * row
                    seen = min(start + top + ROWS, keys) if is_causal else keys
                    # s = scale q k^T and dp = dy v^T
                    tiles(x, q_rows + at, width, one, k_columns, width * wide, wide, size, zeros, s_at, row, seen)
                    tiles(x, dy_rows + at, width, one, v_columns, width * wide, wide, size, zeros, dp_at, row, seen)
                    for r in range(top, top + count):
                        t = start + r
                        mine = min(t + 1, keys) if is_causal else keys
                        kept = ((b * heads + h) * queries + t) * keys
                        fetch(k, next_start + t * k_row, size)
                        fetch(v, next_start + t * k_row, size)
                        fetch(dk, k_start + t * k_row, size)
                        fetch(dv, k_start + t * k_row, size)
                        fetch(q, q_start + (t + BLOCK) * q_row, size)
                        fetch(dy, y_start + (t + BLOCK) * y_row, size)
                        fetch(dq, q_start + t * q_row, size)
                        if keep.size:
                            drop(x, ds + r * row, keep, kept, mine, factor)
                        softmax_backward(x, p + r * row, ds + r * row, lse[b, h, t], mine, seen, scale)
                        if keep.size:
                            drop(x, p + r * row, keep, kept, mine, factor)
                    # dq = scale ds k
                    tiles(x, dp_at, row, one, k_rows, wide, width, seen, zeros, out, width, size)
                    for r in range(count):
                        write_row(x, out + r * width, unit, dq, q_start + (start + top + r) * q_row, size)
                for j in range(0, min(start + block, keys) if is_causal else keys, ROWS):
                    skip = max(0, j - start) if is_causal else zeros  # queries that see nothing of these keys
                    left, right, depth = skip * row + j, skip * width, block - skip
                    dv_at, dk_at = dv_rows + j * width, dk_rows + j * width
                    # dv += p^T dy and dk += scale ds^T q
                    tiles(x, p + left, one, row, dy_rows + right, wide, width, depth, dv_at, dv_at, width, size)
                    tiles(x, ds + left, one, row, q_rows + right, wide, width, depth, dk_at, dk_at, width, size)
        for r in range(keys):
            write_row(x, dk_rows + r * width, unit, dk, k_start + r * k_row, size)
            write_row(x, dv_rows + r * width, unit, dv, k_start + r * k_row, size)
