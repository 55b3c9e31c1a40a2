"""Embedding, with the same bits each time: `embedding.cu`; `tinygrad_llm.ops.embedding` has the definition.

Nothing waits for the device, so an id that no row has is not an error here: it gives a row of NaN.
"""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.elements import alike
from tinygrad_llm.kernels.cuda.launch import kernel

SOURCE = "embedding.cu"
LANES, WARPS = 32, 8  # of a block
THREADS = 256
NO_ROW = -1


def embedding_forward(weight, ids, padding_idx=None):
    (weight,) = alike(weight)
    (tokens,) = alike(ids.astype(np.int64, copy=False))
    y = cupy().empty((*ids.shape, weight.shape[1]), weight.dtype)
    if y.size:
        args = weight, tokens, y, np.int64(ids.size), *map(np.int32, weight.shape)
        kernel(SOURCE, "embedding_forward", weight.dtype)((-(-ids.size // WARPS),), (LANES, WARPS), args)
    return y, tokens, weight.shape, padding_idx


def embedding_backward(dy, ids, shape, padding_idx, out):
    cp, (dweight, add), (rows, width) = cupy(), out[0], shape
    if dweight is None:
        dweight = cp.empty(shape, dy.dtype)
    (dy,) = alike(dy.astype(dweight.dtype, copy=False))
    lists = tokens_by_id(ids, rows, NO_ROW if padding_idx is None else padding_idx % rows, dy.dtype)
    grid = -(-rows // WARPS), -(-width * dy.itemsize // (16 * LANES))
    args = dy, *lists, dweight, np.int32(rows), np.int32(width), np.int32(add)
    if dweight.size:
        kernel(SOURCE, "embedding_backward", dy.dtype)(grid, (LANES, WARPS), args)
    return dweight


def tokens_by_id(ids, rows: int, padding: int, dtype) -> tuple:
    """Where each id's tokens start in the list of all tokens in order of their ids, how many it has, and the list.

    The kernels are those compiled for the gradients' dtype, so that the file is not compiled once more.
    """
    cp = cupy()
    counts, (places, ordered) = cp.zeros(rows, np.int32), cp.empty((2, max(ids.size, 1)), np.int32)
    sizes = np.int32(ids.size), np.int32(rows), np.int32(padding)

    def launch(name, *arrays):
        if ids.size:
            kernel(SOURCE, name, dtype)((-(-ids.size // THREADS),), (THREADS,), (ids, *arrays, *sizes))

    launch("count_tokens", counts)
    starts = cp.cumsum(counts, dtype=np.int32)
    launch("place_tokens", starts, places)
    launch("order_tokens", starts, counts, places, ordered)
    return starts, counts, ordered
