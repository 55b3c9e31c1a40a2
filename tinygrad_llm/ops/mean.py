"""Mean over the axes `dim` (all by default), which stay as axes of size one with `keepdim`.

    y = sum_i x_i / n, so dy/dx_i = 1 / n: every one of the n elements receives dy / n.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import keep_axes


def mean_forward(x, dim=None, keepdim=False):
    y = np.mean(x, axis=dim if x.ndim else None, keepdims=keepdim)  # a number has no axis, and any `dim` is it
    return y, x.shape, dim, x.size // max(y.size, 1)


def mean_backward(dy, shape, dim, n):
    return np.broadcast_to(keep_axes(dy / n, shape, dim), shape)


mean = operation(mean_forward, mean_backward)
