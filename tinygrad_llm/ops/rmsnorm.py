"""Root-mean-square normalization over the last axis (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467).

    rstd = (sum_i x_i^2 / C + eps)^(-1/2),  xhat = x rstd,  y = xhat weight.

Derivation, with g = dy weight: drstd/dx_i = -rstd^3 x_i / C = -rstd^2 xhat_i / C, hence

    dxhat_j/dx_i = rstd ([i = j] - xhat_j xhat_i / C)  and  dx = rstd (g - xhat mean(g xhat)),

layernorm's without the part along the constant vector. dweight = sum_rows dy xhat.

Shapes: x and y (..., C); weight (C,) or None; rstd (..., 1).
"""

import numpy as np

from tinygrad_llm.autograd import operation


def rmsnorm_forward(x, weight=None, eps=1e-6):
    rstd = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    y = x * rstd if weight is None else x * rstd * weight
    return y, x, weight, rstd


def rmsnorm_backward(dy, x, weight, rstd):
    xhat = x * rstd
    # y = xhat * weight
    dweight = (dy * xhat).sum(axis=tuple(range(dy.ndim - 1))) if weight is not None else None
    g = dy if weight is None else dy * weight
    # xhat = x * rstd, where rstd depends on every element of the row
    dx = rstd * (g - xhat * (g * xhat).mean(axis=-1, keepdims=True))
    return dx, dweight


rmsnorm = operation(rmsnorm_forward, rmsnorm_backward, cheap=True)
