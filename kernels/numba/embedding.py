"""Embedding on all threads: `tinygrad_llm.ops.embedding` has the definition.

The forward is NumPy's: copying rows is bound by memory, and it checks the ids. The backward adds, and two threads that
add to the same row of the table at once would lose one of the sums. So each thread owns a range of columns: it walks
through all tokens, in order, and adds its share of each token's gradient. No two threads share a number, no copies of
the table are needed, common and rare tokens weigh the same, and the sums are the same bits for any number of threads.
"""

import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import zeros
from tinygrad_llm.ops.embedding import embedding_forward as embedding_forward


def embedding_backward(dy, ids, shape, padding_idx, out):
    dweight, add = out[0] if padding_idx is None else (None, False)
    if dweight is None:
        dweight = zeros(shape, dy.dtype)
    elif not add:
        dweight[...] = 0
    rows = np.ascontiguousarray(dy).reshape(-1, shape[1])  # (tokens, C)
    _add_rows(rows, ids.reshape(-1).astype(np.int64), dweight)
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


@leaf
def _add_rows(part, parts, dy, ids, dweight):
    width = dweight.shape[1]
    mine = slice(width * part // parts, width * (part + 1) // parts)
    for token in range(ids.size):
        row, total = dy[token, mine], dweight[ids[token], mine]
        for c in range(row.size):
            total[c] += row[c]
