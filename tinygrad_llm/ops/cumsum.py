"""Running sum along the axis `dim`.

    y_i = sum_{j <= i} x_j, so x_j is part of every y_i from i = j on: dx_j = sum_{i >= j} dy_i, the running sum of dy
    from the other end.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError


def cumsum_forward(x, dim):
    if not x.ndim:
        raise UserError(f"cumsum: a number has no dimension {dim}")
    return np.cumsum(x, axis=dim), dim


def cumsum_backward(dy, dim):
    return np.flip(np.cumsum(np.flip(dy, dim), axis=dim), dim)


cumsum = operation(cumsum_forward, cumsum_backward)
