"""Masking: y = value where the mask is True, else x. The mask broadcasts to x; value is a number.

    dy/dx = 0 where the mask replaced x, else 1. To mask attention the value is -inf: a large finite one would let
    the future leak through wherever a whole row is masked.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def masked_fill_forward(x, mask, value):
    return np.where(np.broadcast_to(mask, x.shape), x.dtype.type(value), x), mask


def masked_fill_backward(dy, mask):
    return np.where(mask, 0, dy)


masked_fill = operation(masked_fill_forward, masked_fill_backward)
