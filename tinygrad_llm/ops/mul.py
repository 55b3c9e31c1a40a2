"""Multiplication: z = x y, element by element, with broadcasting.

    dz/dx = y, dz/dy = x, so dx = dz y and dy = dz x, summed over what was broadcast.
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.promotion import promote


def mul_forward(x, y):
    x, y = promote(x, y)
    return x * y, x, y


def mul_backward(dz, x, y, needs):
    dx = unbroadcast(dz * y, x) if needs[0] else None
    dy = unbroadcast(dz * x, y) if needs[1] else None
    return dx, dy


mul = operation(mul_forward, mul_backward)
