"""Picking along one axis: y_ij = x_{index_ij, j} for dim = 0, y_ij = x_{i, index_ij} for dim = 1, and so on.

    Every element of y is one of x: dy goes back to where it came from, and adds up where one was picked several times.

Shapes: index and y alike, with as many axes as x, and no larger than it except along `dim`.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError


def gather_forward(x, dim, index):
    if index.ndim != x.ndim:
        raise UserError(f"gather: the index has {index.ndim} axes, and what it picks from {x.ndim}")
    places = list(np.ix_(*(np.arange(n, like=index) for n in index.shape)))
    places[dim] = index
    return x[tuple(places)], x.shape, tuple(places)


def gather_backward(dy, shape, places):
    dx = np.zeros(shape, dy.dtype, like=dy)
    np.add.at(dx, places, dy)
    return dx


gather = operation(gather_forward, gather_backward)
