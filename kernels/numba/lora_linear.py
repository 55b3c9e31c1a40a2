"""Linear layer with an adapter on `product`, which adds the adapter's share to y and dx as it computes it:
`tinygrad_llm.ops.lora_linear` has the definition and the derivation.

What is of rank r has its r rows on top, u^T and du^T: `product` computes tiles that are wider than they are high, so
that fewer of their numbers stand for nothing.
"""

import numpy as np

from tinygrad_llm.kernels.numba.linear import linear_backward, linear_forward
from tinygrad_llm.kernels.numba.product import product
from tinygrad_llm.kernels.numba.quantized_linear import quantized_linear_backward, quantized_linear_forward
from tinygrad_llm.random import booleans


def lora_linear_forward(x, weight, bias, a, b, scale=1.0, keep=None, dropout_p=0.0, type=None):
    keep = booleans(keep, x)
    if type is None:
        y = linear_forward(x, weight, bias)[0]
    else:
        y = quantized_linear_forward(x, weight, bias, type)[0]
    ut = product(a, _dropped_rows(x, keep, dropout_p).T)  # (r, rows)
    ut *= scale
    product(ut.T, b.T, y.reshape(-1, y.shape[-1]), add=True)
    return y, x, weight, bias is not None, a, b, ut, scale, keep, dropout_p, type


def lora_linear_backward(dy, x, weight, has_bias, a, b, ut, scale, keep, dropout_p, type, needs, out):
    rows_dy = dy.reshape(-1, dy.shape[-1])
    dut = product(b.T, rows_dy.T)  # (r, rows)
    dut *= scale
    db = product(ut, rows_dy).T if needs[4] else None
    da = product(dut, _dropped_rows(x, keep, dropout_p), *out[3]) if needs[3] else None
    has_bias = has_bias and needs[2]
    if type is None:
        dx, dweight, dbias = linear_backward(dy, x, weight, has_bias, needs, out)
    else:
        dx, dweight, dbias = quantized_linear_backward(dy, weight, type, has_bias, needs)
    if needs[0] and keep is None:
        product(dut.T, a, dx.reshape(-1, dx.shape[-1]), add=True)
    elif needs[0]:
        dx += _drop(product(dut.T, a).reshape(x.shape), keep, dropout_p)
    return dx, dweight, dbias, da, db


def _dropped_rows(x, keep, dropout_p):
    rows = x.reshape(-1, x.shape[-1])
    return rows if keep is None else _drop(rows, keep.reshape(rows.shape), dropout_p)


def _drop(x, keep, dropout_p):
    return np.where(keep, x * x.dtype.type(1 / (1 - dropout_p)), 0)
