"""Sum over the axes `dim` (all by default), which stay as axes of size one with `keepdim`.

    y = sum_i x_i, so dy/dx_i = 1: every summed element receives dy as it is.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import keep_axes


def sum_forward(x, dim=None, keepdim=False):
    return np.sum(x, axis=dim, keepdims=keepdim), x.shape, dim


def sum_backward(dy, shape, dim):
    return np.broadcast_to(keep_axes(dy, shape, dim), shape)


sum = operation(sum_forward, sum_backward)
