"""Linear layer by `product`, in Numba's own threads: `tinygrad_llm.ops.linear` has the definition and the derivation.

All three products of the page go through it: y = x W^T, dx = dy W and dW = dy^T x. That no other threads wake up for
them, and wait for each other, is worth more than their own speed where a model is small. For few rows of x, as in
decoding, y is `matvec`'s.
"""

import numpy as np

from tinygrad_llm.kernels.numba.matvec import FEW, matvec
from tinygrad_llm.kernels.numba.product import column_sums, product
from tinygrad_llm.memory import empty


def linear_forward(x, weight, bias=None):
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) > FEW:
        y = product(rows, weight.T, bias=bias)
    else:
        y = matvec(*(None if a is None else np.ascontiguousarray(a) for a in (rows, weight, bias)))
    return y.reshape(*x.shape[:-1], len(weight)), x, weight, bias is not None


def linear_backward(dy, x, weight, has_bias, needs, out):
    rows_dy, rows_x = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    dx = product(rows_dy, weight).reshape(x.shape) if needs[0] else None
    return dx, *weight_gradients(rows_dy, rows_x, needs[1], has_bias, out[1:])


def weight_gradients(rows_dy, rows_x, needs_weight, has_bias, out):
    """dW = dy^T x, and db, the sums of dy's columns, which `product` adds up on the way; `out` says where to."""
    if not needs_weight:
        return None, column_sums(rows_dy) if has_bias else None
    dbias, add = out[1] if has_bias else (None, False)
    if has_bias and dbias is None:
        dbias = empty(rows_dy.shape[1:], rows_dy.dtype)
    return product(rows_dy.T, rows_x, *out[0], sums=dbias, add_sums=add), dbias
