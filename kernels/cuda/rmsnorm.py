"""Root-mean-square normalization in one pass over memory: `rmsnorm.cu`, by the rows of layernorm, whose page explains
them; `tinygrad_llm.ops.rmsnorm` has the definition."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.column_sums import add_parts, empty_parts
from tinygrad_llm.kernels.cuda.elements import alike
from tinygrad_llm.kernels.cuda.layernorm import launch_rows, per_row

SOURCE = "rmsnorm.cu"


def rmsnorm_forward(x, weight=None, eps=1e-6):
    x, weight = alike(x, weight)
    y, rstd = cupy().empty_like(x), per_row(x)
    launch_rows(SOURCE, "rmsnorm_forward", x, (x, weight, y, rstd), np.float32(eps))
    return y, x, weight, rstd


def add_rmsnorm_forward(x, residual, weight=None, eps=1e-6):
    """z = x + residual, then y = rmsnorm(z) and what its backward needs."""
    x, residual, weight = alike(x, residual, weight)
    z, y, rstd = cupy().empty_like(x), cupy().empty_like(x), per_row(x)
    launch_rows(SOURCE, "add_rmsnorm_forward", x, (x, residual, weight, z, y, rstd), np.float32(eps))
    return z, y, z, weight, rstd


def rmsnorm_backward(dy, x, weight, rstd, arrived=None):
    dy, arrived = alike(dy.astype(x.dtype, copy=False), arrived)
    dx, parts = cupy().empty_like(x), empty_parts(1, rstd.size, x.shape[-1])
    launch_rows(SOURCE, "rmsnorm_backward", x, (dy, x, weight, rstd, arrived, dx, parts), blocks=parts.shape[1])
    return dx, *add_parts(parts, x.dtype, weight is not None)
