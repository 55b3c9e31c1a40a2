"""Indexing: y = x[index], with slices, numbers, None, an ellipsis, masks, or arrays of whole numbers.

    Every element of y is one of x, so each dy goes back to where its element came from; what was picked several times
    receives the sum, and what was not picked receives 0.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError
from tinygrad_llm.tensor import Tensor


def getitem_forward(x, index):
    if isinstance(index, tuple):
        index = tuple(i.data if isinstance(i, Tensor) else i for i in index)
    return x[index], x.shape, index


def getitem_backward(dy, shape, index):
    dx = np.zeros(shape, dy.dtype, like=dy)
    indices = index if isinstance(index, tuple) else (index,)
    if all(i is None or i is ... or isinstance(i, (int, slice)) for i in indices):
        dx[index] = dy
    else:
        np.add.at(dx, index, dy)  # `dx[index] += dy` would count a repeated element once
    return dx


getitem = operation(getitem_forward, getitem_backward)


def split(x: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """A tuple of consecutive parts along `dim`: of this size (the last may be smaller), or of the listed sizes.

    Raises UserError for sizes that do not add up to that of `dim`.
    """
    size, sections = x.shape[dim], split_size_or_sections
    if isinstance(sections, int):
        sections = [min(sections, size - start) for start in range(0, max(size, 1), sections)]
    if sum(sections) != size:
        raise UserError(f"split: sections {list(sections)} must add up to {size}, the size of dimension {dim}")
    before = (slice(None),) * (dim % x.ndim)
    ends = itertools.accumulate(sections)
    return tuple(getitem(x, (*before, slice(end - n, end))) for end, n in zip(ends, sections, strict=True))
