"""Embedding on all threads: `tinygrad_llm.ops.embedding` has the definition.

The forward is NumPy's: copying rows is bound by memory, and it checks the ids. The backward adds, and two threads that
add to the same row of the table at once would lose one of the sums. So the tokens are sorted by their ids, and each
thread takes as many as the others, but for those whose row the thread before it has begun. No two threads share a row,
no copies of the table are needed, and each row adds up its tokens in order: the bits are the same for any number of
threads. Ranges of columns would be too, but a thread that walks along a part of a row fetches what lies behind it, and
were that another thread's to write, each token would cost microseconds.
"""

import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty, zeros
from tinygrad_llm.recording import assign, repeated


def embedding_forward(weight, ids, padding_idx=None):
    y = empty((*ids.shape, weight.shape[1]), weight.dtype)
    repeated(_copy_rows, weight, ids, y)
    return y, ids, weight.shape, padding_idx


def embedding_backward(dy, ids, shape, padding_idx, out):
    dweight, add = out[0] if padding_idx is None else (None, False)
    if dweight is None:
        dweight = zeros(shape, dy.dtype)
    elif not add:
        repeated(assign, dweight, 0)
    rows = np.ascontiguousarray(dy).reshape(-1, shape[1])  # (tokens, C)
    order, in_order = empty((2, ids.size), np.dtype(np.int64))
    repeated(_sort, ids, order, in_order)
    _add_rows(rows, order, in_order, dweight)
    if padding_idx is not None:
        repeated(assign, dweight[padding_idx], 0)
    return dweight


def _copy_rows(weight, ids, y) -> None:
    y[...] = weight[ids]


def _sort(ids, order, in_order) -> None:
    order[:] = np.argsort(ids, axis=None, kind="stable")
    in_order[:] = ids.reshape(-1)[order]


@leaf
def _add_rows(part, parts, dy, order, ids, dweight):
    """ids are in order, and order[i] is the token that has ids[i]."""
    first, last = ids.size * part // parts, ids.size * (part + 1) // parts
    while 0 < first < ids.size and ids[first] == ids[first - 1]:
        first += 1
    while 0 < last < ids.size and ids[last] == ids[last - 1]:
        last += 1
    for i in range(first, last):
        row, total = dy[order[i]], dweight[ids[i]]
        for c in range(row.size):
            total[c] += row[c]
