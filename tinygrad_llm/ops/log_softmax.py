"""Logarithm of the softmax along `dim`: y_i = x_i - log sum_j e^{x_j}.

    dy_j/dx_i = [i = j] - softmax(x)_i = [i = j] - e^{y_i}, so dx = dy - e^y sum_j dy_j.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.amax import largest


def log_softmax_forward(x, dim=-1):
    centered = x - largest(x, dim)
    y = centered - np.log(np.exp(centered).sum(axis=dim, keepdims=True))
    return y, y, dim


def log_softmax_backward(dy, y, dim):
    return dy - np.exp(y) * dy.sum(axis=dim, keepdims=True)


log_softmax = operation(log_softmax_forward, log_softmax_backward)
