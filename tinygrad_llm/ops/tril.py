"""The lower triangle of the last two axes, with the diagonals up to `diagonal` above the main one; 0 elsewhere.

    dy/dx = 1 for what is kept and 0 for what is not, so dx is the same triangle of dy.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError


def tril_forward(x, diagonal=0):
    if x.ndim < 2:
        raise UserError(f"tril takes matrices, not a tensor of shape {x.shape}")
    return np.tril(x, diagonal), diagonal


def tril_backward(dy, diagonal):
    return np.tril(dy, diagonal)


tril = operation(tril_forward, tril_backward)
