"""Quantized linear layer: `quantized_linear.cu`; `tinygrad_llm.ops.quantized_linear` has the definition."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.elements import alike
from tinygrad_llm.kernels.cuda.launch import NULL, kernel
from tinygrad_llm.kernels.cuda.linear import affine, column_sums, rows_of
from tinygrad_llm.kernels.cuda.matvec import FEW, LANES, WARPS
from tinygrad_llm.kernels.cuda.product import product
from tinygrad_llm.ops.quantized_linear import BLOCK, BYTES

SOURCE = "quantized_linear.cu"
THREADS, EACH = 256, 4  # numbers of a thread


def quantized_linear_forward(x, blocks, bias=None, type="Q8_0"):
    blocks = cupy().ascontiguousarray(blocks)
    if x.size // max(x.shape[-1], 1) <= FEW:
        y = _matvec(*alike(rows_of(x), bias), blocks, type)
    else:
        y = affine(rows_of(x), dequantized(blocks, type, x.dtype), bias)
    return y.reshape(*x.shape[:-1], len(blocks)), blocks, type, bias is not None


def quantized_linear_backward(dy, blocks, type, has_bias, needs):
    rows_dy = rows_of(dy)
    dx = product(rows_dy, dequantized(blocks, type, dy.dtype)) if needs[0] else None
    return None if dx is None else dx.reshape(*dy.shape[:-1], -1), None, column_sums(rows_dy) if has_bias else None


def dequantized(blocks, type, dtype):
    """The matrix (out, in) that the blocks (out, bytes of a row) hold."""
    count = blocks.size // BYTES[type]
    weight = cupy().empty((len(blocks), count // len(blocks) * BLOCK), dtype)
    grid = (-(-count * BLOCK // (EACH * THREADS)),)
    kernel(SOURCE, f"dequantize_{type}", dtype)(grid, (THREADS,), (blocks, weight, np.int64(count)))
    return weight


def _matvec(x, bias, blocks, type):
    columns, count = len(blocks), blocks.shape[1] // BYTES[type]
    y = cupy().empty((len(x), columns), x.dtype)
    if y.size:
        args = x, blocks, NULL if bias is None else bias, y, *map(np.int32, (len(x), columns, count))
        kernel(SOURCE, f"matvec_{type}", x.dtype)((-(-columns // WARPS),), (LANES, WARPS), args)
    return y
