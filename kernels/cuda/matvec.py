"""Products of few rows with a large matrix, y = x W^T + b: `matvec.cu`."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.elements import alike
from tinygrad_llm.kernels.cuda.launch import NULL, kernel

FEW = 8  # rows
LANES, WARPS = 32, 8  # of a block


def matvec(x, weight, bias=None):
    """x (rows, K) times the transpose of weight (N, K), plus bias (N,): (rows, N), for at most FEW rows."""
    x, weight, bias = alike(x, weight, bias)
    (rows, size), columns = x.shape, len(weight)
    y = cupy().empty((rows, columns), x.dtype)
    if y.size:
        most = 1 << (rows - 1).bit_length()
        args = x, weight, NULL if bias is None else bias, y, *map(np.int32, (rows, columns, size))
        kernel("matvec.cu", f"matvec_{most}", x.dtype)((-(-columns // WARPS),), (LANES, WARPS), args)
    return y
