"""Joining tensors along the axis `dim`.

    Every element of y is one of the tensors', so each receives its part of dy.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.reshape import unsqueeze


def concatenate_forward(*tensors, dim=0):
    return np.concatenate(tensors, axis=dim), [x.shape[dim] for x in tensors], dim


def concatenate_backward(dy, sizes, dim):
    return tuple(np.split(dy, np.cumsum(sizes)[:-1], axis=dim))


concatenate = operation(concatenate_forward, concatenate_backward)


def cat(tensors, dim=0):
    """The tensors of a list joined along `dim`."""
    return concatenate(*tensors, dim=dim)


def stack(tensors, dim=0):
    """The tensors of a list, all of one shape, joined along a new axis at the place `dim`."""
    return cat([unsqueeze(x, dim) for x in tensors], dim)
