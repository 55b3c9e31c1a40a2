"""Subtraction: z = x - y, element by element, with broadcasting.

    dz/dx = 1, dz/dy = -1, so dx = dz and dy = -dz, summed over what was broadcast.
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.promotion import promote


def sub_forward(x, y):
    x, y = promote(x, y)
    return x - y, x, y


def sub_backward(dz, x, y, needs):
    dx = unbroadcast(dz, x) if needs[0] else None
    dy = -unbroadcast(dz, y) if needs[1] else None
    return dx, dy


sub = operation(sub_forward, sub_backward)
