"""The norm of all gradients on all threads: `tinygrad_llm.optim.optimizer` has the definition.

NumPy's dot product reads the gradients on one thread, and one core cannot fetch from memory what two can. The squares
of a stretch are added up as the gradients are, the stretches in float64.
"""

import math

import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf, sums, total_of
from tinygrad_llm.optim.optimizer import clip_factor

STRETCH = 4096
FLOAT64 = np.dtype(np.float64)


def grad_norm_clip(grad, max_norm):
    added = sums(1, FLOAT64)
    _add_squares(grad, added)
    norm = math.sqrt(total_of(added, 1)[0])
    return norm, clip_factor(norm, max_norm)


@leaf
def _add_squares(part, parts, grad, added):
    added[part, 0] = 0
    first, end = grad.size * part // parts, grad.size * (part + 1) // parts
    for start in range(first, end, STRETCH):
        square = grad.dtype.type(0)
        for i in range(start, min(start + STRETCH, end)):
            square += grad[i] * grad[i]
        added[part, 0] += square
