"""Layer normalization over the last axis (Ba, Kiros & Hinton 2016, https://arxiv.org/abs/1607.06450).

    mean = sum_i x_i / C,  var = sum_i (x_i - mean)^2 / C,  rstd = (var + eps)^(-1/2),
    xhat = (x - mean) rstd,  y = xhat weight + bias.

Derivation, a row of C numbers at a time. With g = dy weight, the gradient with respect to xhat:

    dxhat_j/dx_i = rstd ([i = j] - 1/C - xhat_j xhat_i / C)

since dmean/dx_i = 1/C and drstd/dx_i = -rstd^3 (x_i - mean) / C = -rstd^2 xhat_i / C. Summed against g,

    dx = rstd (g - mean(g) - xhat mean(g xhat)):

g without its part along the constant vector and along xhat, the two directions that normalization removes.
weight and bias are shared by all rows: dweight = sum_rows dy xhat, dbias = sum_rows dy.

Shapes: x and y (..., C); weight and bias (C,) or None; mean and rstd (..., 1).
"""

import numpy as np

from tinygrad_llm.autograd import operation


def layernorm_forward(x, weight, bias, eps=1e-5):
    mean = x.mean(axis=-1, keepdims=True)
    centered = x - mean
    rstd = 1 / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + eps)
    y = centered * rstd
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y, x, weight, bias is not None, mean, rstd


def layernorm_backward(dy, x, weight, has_bias, mean, rstd):
    rows = tuple(range(dy.ndim - 1))
    xhat = (x - mean) * rstd
    # y = xhat * weight + bias
    dbias = dy.sum(axis=rows) if has_bias else None
    dweight = (dy * xhat).sum(axis=rows) if weight is not None else None
    g = dy if weight is None else dy * weight
    # xhat = (x - mean) * rstd, where mean and rstd depend on every element of the row
    dx = rstd * (g - g.mean(axis=-1, keepdims=True) - xhat * (g * xhat).mean(axis=-1, keepdims=True))
    return dx, dweight, dbias


layernorm = operation(layernorm_forward, layernorm_backward, cheap=True)
