"""Softmax along `dim`: y_i = e^{x_i} / sum_j e^{x_j}.

    dy_j/dx_i = y_j ([i = j] - y_i), and summed against dy: dx = y (dy - sum_j dy_j y_j).

Subtracting the largest x changes nothing, for it cancels, and keeps e^x from overflowing.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.amax import largest


def softmax_forward(x, dim=-1):
    e = np.exp(x - largest(x, dim))
    y = e / e.sum(axis=dim, keepdims=True)
    return y, y, dim


def softmax_backward(dy, y, dim):
    return y * (dy - (dy * y).sum(axis=dim, keepdims=True))


softmax = operation(softmax_forward, softmax_backward)
