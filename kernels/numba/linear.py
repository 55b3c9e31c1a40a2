"""Linear layer by `product`, in Numba's own threads: `tinygrad_llm.ops.linear` has the definition and the derivation.

All three products of the page go through it: y = x W^T, dx = dy W and dW = dy^T x. That no other threads wake up for
them, and wait for each other, is worth more than their own speed where a model is small.
"""

from tinygrad_llm.kernels.numba.product import column_sums, product


def linear_forward(x, weight, bias=None):
    y = product(x.reshape(-1, x.shape[-1]), weight.T, bias=bias).reshape(*x.shape[:-1], len(weight))
    return y, x, weight, bias is not None


def linear_backward(dy, x, weight, has_bias, needs, out):
    rows_dy, rows_x = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    dx = product(rows_dy, weight).reshape(x.shape) if needs[0] else None
    dweight = product(rows_dy.T, rows_x, *out[1]) if needs[1] else None
    dbias = column_sums(rows_dy) if has_bias else None
    return dx, dweight, dbias
