"""The upper triangle of the last two axes, from the diagonal that is `diagonal` above the main one; 0 elsewhere.

    dy/dx = 1 for what is kept and 0 for what is not, so dx is the same triangle of dy.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError


def triu_forward(x, diagonal=0):
    if x.ndim < 2:
        raise UserError(f"triu takes matrices, not a tensor of shape {x.shape}")
    return np.triu(x, diagonal), diagonal


def triu_backward(dy, diagonal):
    return np.triu(dy, diagonal)


triu = operation(triu_forward, triu_backward)
