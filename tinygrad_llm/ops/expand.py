"""Axes of size one repeated to the given sizes, and new axes before them; -1 keeps a size. Nothing is copied.

    y_k = x for every copy k, so dx is dy summed over the copies.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast


def expand_forward(x, *sizes):
    sizes = sizes[0] if sizes and isinstance(sizes[0], (tuple, list)) else sizes
    new = len(sizes) - x.ndim  # how many axes come before those of x
    return np.broadcast_to(x, [x.shape[axis - new] if size == -1 else size for axis, size in enumerate(sizes)]), x


def expand_backward(dy, x):
    return unbroadcast(dy, x)


expand = operation(expand_forward, expand_backward)
