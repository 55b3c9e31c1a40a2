"""Largest element over the axes `dim` (all by default), which stay as axes of size one with `keepdim`.

    y = max_i x_i, so dy/dx_i = 1 for the largest and 0 for the others; elements that share the maximum share dy evenly.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import keep_axes
from tinygrad_llm.ops.gather import gather
from tinygrad_llm.ops.reshape import squeeze
from tinygrad_llm.tensor import Tensor


def amax_forward(x, dim=None, keepdim=False):
    y = np.max(x, axis=dim, keepdims=keepdim)
    return y, x, dim, y


def amax_backward(dy, x, dim, y):
    largest = (x == keep_axes(y, x.shape, dim)).astype(dy.dtype)
    return keep_axes(dy, x.shape, dim) * largest / largest.sum(axis=dim, keepdims=True)


amax = operation(amax_forward, amax_backward)


def largest(x, dim):
    """What a softmax subtracts: the largest elements of an array along `dim`, which stays as an axis of size one."""
    return (x.max if x.size else x.sum)(axis=dim, keepdims=True)  # the maximum of nothing is an error, its sum is not


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the largest element along `dim`, the first of equal ones; in the flattened tensor without `dim`."""
    return Tensor(np.argmax(x.data, axis=dim, keepdims=keepdim))


def max(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """The largest element, as `amax`; with `dim`, as torch.max, a pair: the largest along it, and their indices.

    Of equal elements along `dim` the one at the index receives the whole gradient.
    """
    if dim is None:
        return amax(x)
    indices = argmax(x, dim, keepdim=True)
    values = gather(x, dim, indices)
    return (values, indices) if keepdim else (squeeze(values, dim), squeeze(indices, dim))


def min(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """The smallest element, or with `dim` a pair: whatever `max` says of -x."""
    if dim is None:
        return -max(-x)
    values, indices = max(-x, dim, keepdim)
    return -values, indices
