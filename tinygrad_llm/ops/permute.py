"""The same elements with the axes in another order, given as numbers or as a tuple: axis i of y is axis dims[i] of x.

    Every element of y is one of x, so dx is dy with the axes back in their places: the inverse permutation, which
    argsort gives.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError
from tinygrad_llm.tensor import Tensor


def permute_forward(x, *dims):
    dims = dims[0] if dims and isinstance(dims[0], (tuple, list)) else dims
    return np.transpose(x, dims), [dim % x.ndim for dim in dims]


def permute_backward(dy, dims):
    inverse = np.argsort(dims).tolist()
    return np.transpose(dy, inverse)


permute = operation(permute_forward, permute_backward)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """With two axes exchanged."""
    dims = list(range(x.ndim))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return permute(x, dims)


def t(x: Tensor) -> Tensor:
    """A matrix transposed; a vector or a number as it is."""
    if x.ndim > 2:
        raise UserError(f"t takes a matrix, not a tensor of shape {x.shape}: use mT, or transpose")
    return transpose(x, 0, 1) if x.ndim == 2 else x
