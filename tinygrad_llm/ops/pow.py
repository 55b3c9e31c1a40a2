"""Power: z = x^y, element by element, with broadcasting; x and y are tensors or numbers.

    dz/dx = y x^(y-1),  dz/dy = x^y log x = z log x,

the second because x^y = e^(y log x). Where the factors have no product, the limit holds: x^0 is constant, so dz/dx = 0
for y = 0 even at x = 0, and 0^y is constant, so dz/dy = 0 for x = 0 and y >= 0.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.promotion import promote


def pow_forward(x, y):
    x, y = promote(x, y)
    z = x**y
    return z, x, y, z


def pow_backward(dz, x, y, z, needs):
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite at x = 0 for y < 1, and no number for log(x < 0)
        # y - (y != 0) is y - 1, and 0 for y = 0
        dx = unbroadcast(dz * (y * x ** (y - (y != 0))), x) if needs[0] else None
        # log 1 = 0 stands for log 0 where z is constant
        dy = unbroadcast(dz * (z * np.log(x + ((x == 0) & (y >= 0)), dtype=dz.dtype)), y) if needs[1] else None
    return dx, dy


pow = operation(pow_forward, pow_backward)
