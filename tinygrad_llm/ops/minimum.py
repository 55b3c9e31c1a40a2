"""The smaller of two, element by element: z = min(x, y), with broadcasting.

    The smaller one receives dz, the other nothing; equal ones receive half each.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.promotion import promote


def minimum_forward(x, y):
    x, y = promote(x, y)
    return np.minimum(x, y), x, y


def minimum_backward(dz, x, y, needs):
    tie = dz / 2 * (x == y)
    dx = unbroadcast(dz * (x < y) + tie, x) if needs[0] else None
    dy = unbroadcast(dz * (y < x) + tie, y) if needs[1] else None
    return dx, dy


minimum = operation(minimum_forward, minimum_backward)
