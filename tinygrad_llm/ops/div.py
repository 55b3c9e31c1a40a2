"""Division: z = x / y, element by element, with broadcasting. Whole numbers give float32.

    dz/dx = 1 / y, dz/dy = -x / y^2 = -z / y, so dx = dz / y and dy = -dz z / y, summed over what was broadcast.
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.promotion import promote


def div_forward(x, y):
    x, y, _ = promote(x, y, 1.0)
    z = x / y
    return z, x, y, z


def div_backward(dz, x, y, z, needs):
    dx = unbroadcast(dz / y, x) if needs[0] else None
    dy = unbroadcast(-dz * z / y, y) if needs[1] else None
    return dx, dy


div = operation(div_forward, div_backward)
