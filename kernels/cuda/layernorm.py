"""Layer normalization in one pass over memory: `layernorm.cu`; `tinygrad_llm.ops.layernorm` has the definition.

Statistics are float32, whatever x is. `add_layernorm_forward` has the sum before the norm, z = x + residual, in the
same pass, and the backward the sum of two gradients of x, its own and that which has arrived from elsewhere.
"""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.column_sums import add_parts, empty_parts
from tinygrad_llm.kernels.cuda.elements import alike
from tinygrad_llm.kernels.cuda.launch import NULL, kernel

SOURCE = "layernorm.cu"
NUMBERS = 16  # of a row, that a thread keeps in registers
MOST_THREADS = 512


def layernorm_forward(x, weight, bias, eps=1e-5):
    x, weight, bias = alike(x, weight, bias)
    y, mean, rstd = cupy().empty_like(x), per_row(x), per_row(x)
    launch_rows(SOURCE, "layernorm_forward", x, (x, weight, bias, y, mean, rstd), np.float32(eps))
    return y, x, weight, bias is not None, mean, rstd


def add_layernorm_forward(x, residual, weight, bias, eps=1e-5):
    """z = x + residual, then y = layernorm(z) and what its backward needs."""
    x, residual, weight, bias = alike(x, residual, weight, bias)
    z, y, mean, rstd = cupy().empty_like(x), cupy().empty_like(x), per_row(x), per_row(x)
    arrays = (x, residual, weight, bias, z, y, mean, rstd)
    launch_rows(SOURCE, "add_layernorm_forward", x, arrays, np.float32(eps))
    return z, y, z, weight, bias is not None, mean, rstd


def layernorm_backward(dy, x, weight, has_bias, mean, rstd, arrived=None):
    dy, arrived = alike(dy.astype(x.dtype, copy=False), arrived)
    dx, parts = cupy().empty_like(x), empty_parts(2, mean.size, x.shape[-1])
    arrays = (dy, x, weight, mean, rstd, arrived, dx, parts)
    launch_rows(SOURCE, "layernorm_backward", x, arrays, blocks=parts.shape[1])
    return dx, *add_parts(parts, x.dtype, weight is not None, has_bias)


def per_row(x):
    """An array for a float32 number of each row of x."""
    return cupy().empty(x.size // max(x.shape[-1], 1), np.float32)


def launch_rows(source, name: str, x, arrays: tuple, *scalars, blocks: int = 0) -> None:
    """Launch a kernel that has a block for each row of x, or so many blocks. The block is a power of two, which
    versions/layernorm_2.cu needs."""
    if x.size:
        rows, width = x.size // x.shape[-1], x.shape[-1]
        threads = min(max(1 << ((width - 1) // NUMBERS).bit_length(), 32), MOST_THREADS)
        given = (NULL if array is None else array for array in arrays)
        args = (*given, np.int32(rows), np.int32(width), *scalars)
        kernel(source, name, x.dtype)((blocks or rows,), (threads,), args)
