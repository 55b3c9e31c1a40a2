"""Addition: z = x + y, element by element, with broadcasting.

    dz/dx = dz/dy = 1, so dx = dy = dz, summed over what was broadcast.
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.promotion import promote


def add_forward(x, y):
    x, y = promote(x, y)
    return x + y, x, y


def add_backward(dz, x, y, needs):
    dx = unbroadcast(dz, x) if needs[0] else None
    dy = unbroadcast(dz, y) if needs[1] else None
    return dx, dy


add = operation(add_forward, add_backward)
