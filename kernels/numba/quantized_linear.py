"""Quantized linear layer: `tinygrad_llm.ops.quantized_linear` has the definition and the derivation.

With few rows of x, as in decoding, each row of W is unpacked where it is used, in the first-level cache, so that from
memory only its blocks are read. With many, as in a prompt, all of W is unpacked for `product`: it costs about as much
as ten rows of x.
"""

import numpy as np

from tinygrad_llm.kernels.numba.matvec import FEW, dot
from tinygrad_llm.kernels.numba.product import column_sums, product
from tinygrad_llm.kernels.numba.quants import dot_blocks, unpack
from tinygrad_llm.kernels.numba.threads import leaf, scratch
from tinygrad_llm.memory import empty
from tinygrad_llm.ops.quantized_linear import BLOCK, BYTES


def quantized_linear_forward(x, blocks, bias=None, type="Q8_0"):
    rows_x, blocks = np.ascontiguousarray(x).reshape(-1, x.shape[-1]), np.ascontiguousarray(blocks)
    if len(rows_x) > FEW:
        y = product(rows_x, dequantize(blocks, type, x.dtype).T, bias=bias)
    else:
        (rows, size), columns = rows_x.shape, len(blocks)
        y = empty((rows, columns), x.dtype)
        bias_ = rows_x[0, :0] if bias is None else np.ascontiguousarray(bias)
        sizes = rows, columns, size, BYTES[type]
        _matvec(rows_x.reshape(-1), blocks.reshape(-1), bias_, y.reshape(-1), *sizes, scratch(size, x.dtype))
    return y.reshape(*x.shape[:-1], len(blocks)), blocks, type, bias is not None


def quantized_linear_backward(dy, blocks, type, has_bias, needs):
    rows_dy = dy.reshape(-1, dy.shape[-1])
    dx = product(rows_dy, dequantize(blocks, type, dy.dtype)).reshape(*dy.shape[:-1], -1) if needs[0] else None
    return dx, None, column_sums(rows_dy) if has_bias else None


def dequantize(blocks, type, dtype):
    """The numbers (rows, columns) of rows of blocks."""
    weight = empty((len(blocks), blocks.shape[1] // BYTES[type] * BLOCK), dtype)
    _unpack(blocks.reshape(-1), weight.reshape(-1), BYTES[type])
    return weight


@leaf
def _matvec(part, parts, x, blocks, bias, y, rows, columns, size, block_size, scratch):
    weight, count = scratch[part], size // BLOCK
    for o in range(columns * part // parts, columns * (part + 1) // parts):
        start = o * count * block_size
        if rows > 1:
            unpack(blocks, start, block_size, count, weight, 0)
        for i in range(rows):
            s = dot(x, i * size, weight, 0, size) if rows > 1 else dot_blocks(x, 0, blocks, start, block_size, count)
            y[i * columns + o] = s + bias[o] if bias.size else s


@leaf
def _unpack(part, parts, blocks, weight, block_size):
    count = blocks.size // block_size
    first, last = count * part // parts, count * (part + 1) // parts
    unpack(blocks, first * block_size, block_size, last - first, weight, first * BLOCK)
