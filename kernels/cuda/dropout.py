"""Dropout whose mask is made in registers: `dropout.cu`; `tinygrad_llm.ops.dropout` has the definition."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.launch import kernel
from tinygrad_llm.kernels.cuda.philox import mask_arguments

THREADS = 256


def dropout_forward(x, keep, p):
    return _dropped(x, keep, p), keep, p


def dropout_backward(dy, keep, p):
    return _dropped(dy, keep, p)


def _dropped(x, keep, p):
    cp = cupy()
    x, y = cp.ascontiguousarray(x), cp.empty(x.shape, x.dtype)
    if x.size:
        args = (x, y, *mask_arguments(keep, p), np.int64(x.size))
        blocks = -(-x.nbytes // (16 * THREADS))
        kernel("dropout.cu", "dropout", x.dtype)((blocks,), (THREADS,), args)
    return y
