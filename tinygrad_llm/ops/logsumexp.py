"""Logarithm of a sum of exponentials over the axes `dim`, which stay as axes of size one with `keepdim`.

    y = log sum_i e^(x_i) = m + log sum_i e^(x_i - m) for any m; with m = max_i x_i no exponential overflows.
    dy/dx_i = e^(x_i) / sum_j e^(x_j) = e^(x_i - y), the softmax of x. Where every x_i is -inf, so is y, and dx is NaN,
    as in torch.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.amax import largest
from tinygrad_llm.ops.broadcasting import keep_axes


def logsumexp_forward(x, dim, keepdim=False):
    m = largest(x, dim)
    m = np.where(np.isfinite(m), m, 0)
    with np.errstate(divide="ignore"):  # log 0 = -inf
        y = np.log(np.sum(np.exp(x - m), axis=dim, keepdims=keepdim))
    y = y + m.reshape(y.shape)
    return y, x, dim, y


def logsumexp_backward(dy, x, dim, y):
    with np.errstate(invalid="ignore"):  # -inf - -inf
        return keep_axes(dy, x.shape, dim) * np.exp(x - keep_axes(y, x.shape, dim))


logsumexp = operation(logsumexp_forward, logsumexp_backward)
