"""Clamping: y = x within [min, max], and the nearer bound outside; either bound may be None.

    dy/dx = 1 where x stays as it is, the bounds included, and 0 where a bound, a constant, takes its place.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.promotion import promote


def clamp_forward(x, min=None, max=None):
    y = x
    if min is not None:
        y = np.maximum(*promote(y, min))
    if max is not None:
        y = np.minimum(*promote(y, max))
    return y, y == x


def clamp_backward(dy, kept):
    return dy * kept


clamp = operation(clamp_forward, clamp_backward)
