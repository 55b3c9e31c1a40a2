"""Joining tensors along the axis `dim`.

    Every element of y is one of the tensors', so each receives its part of dy.
"""

from collections.abc import Sequence

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError
from tinygrad_llm.ops.promotion import promote
from tinygrad_llm.ops.reshape import unsqueeze
from tinygrad_llm.tensor import Tensor


def concatenate_forward(*tensors, dim=0):
    return np.concatenate(promote(*tensors), axis=dim), [x.shape[dim] for x in tensors], dim


def concatenate_backward(dy, sizes, dim):
    return tuple(np.split(dy, np.cumsum(sizes)[:-1].tolist(), axis=dim))


concatenate = operation(concatenate_forward, concatenate_backward)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors of a list joined along `dim`."""
    if not len(tensors):
        raise UserError("cat needs at least one tensor")
    return concatenate(*tensors, dim=dim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors of a list, all of one shape, joined along a new axis at the place `dim`."""
    return cat([unsqueeze(x, dim) for x in tensors], dim)
