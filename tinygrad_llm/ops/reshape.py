"""The same elements, in the same order, in another shape, given as sizes or as a tuple; one size may be -1.

    Every element of y is one of x, so dx is dy in the shape of x.
"""

import math

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.tensor import Tensor


def reshape_forward(x, *shape):
    return x.reshape(*shape), x.shape


def reshape_backward(dy, shape):
    return dy.reshape(shape)


reshape = view = operation(reshape_forward, reshape_backward)


def squeeze(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Without the axes of size one, or only those among `dim`."""
    if dim is not None:
        dim = tuple(d for d in (dim if isinstance(dim, tuple) else (dim,)) if x.shape[d] == 1)
    return reshape(x, np.squeeze(x.data, dim).shape)


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """With a new axis of size one at the place `dim`."""
    return reshape(x, np.expand_dims(x.data, dim).shape)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """With the axes from `start_dim` to `end_dim` as one."""
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = range(x.ndim)[start_dim], range(x.ndim)[end_dim] + 1
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start:end]), *x.shape[end:]))
