"""Choice: z = x where the condition holds, else y, element by element, with broadcasting.

    Each element of dz goes to the one that was chosen, and 0 to the other.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.promotion import promote


def where_forward(condition, x, y):
    x, y = promote(x, y)
    return np.where(condition, x, y), condition, x, y


def where_backward(dz, condition, x, y, needs):
    dx = unbroadcast(np.where(condition, dz, 0), x) if needs[1] else None
    dy = unbroadcast(np.where(condition, 0, dz), y) if needs[2] else None
    return None, dx, dy


where = operation(where_forward, where_backward)
