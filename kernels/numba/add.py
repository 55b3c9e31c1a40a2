"""Addition on all threads: `tinygrad_llm.ops.add` has the definition.

NumPy adds on one thread, and a shortcut's two summands lie half in the other core's cache. y may have the shape of x's
last axes, as positions that are added to every text. What broadcasts otherwise, or has gaps in memory, takes the page's
own function.
"""

import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty
from tinygrad_llm.ops import add as page


def add_forward(x, y):
    alike = all(isinstance(z, np.ndarray) and z.dtype == x.dtype and z.flags.c_contiguous for z in (x, y))
    if not alike or x.shape[-y.ndim :] != y.shape:
        z, *saved = page.forward(x, y)
        return z, page.backward, saved
    z = empty(x.shape, x.dtype)
    _add(x.reshape(-1), y.reshape(-1), z.reshape(-1))
    return z, _backward, [y.shape]


def add_backward(dz, backward, saved, needs):
    return backward(dz, *saved, needs)


def _backward(dz, shape, needs):
    if dz.shape == shape or not needs[1]:
        return dz, dz
    dy = empty(shape, dz.dtype)
    _add_rows(np.ascontiguousarray(dz).reshape(-1), dy.reshape(-1))
    return dz, dy


@leaf
def _add(part, parts, x, y, z):
    """z = x + y, y over and over again."""
    first, end = x.size * part // parts, x.size * (part + 1) // parts
    while first < end:
        place = first % y.size
        count = min(y.size - place, end - first)
        xs, ys, zs = x[first : first + count], y[place : place + count], z[first : first + count]
        for i in range(count):
            zs[i] = xs[i] + ys[i]
        first += count


@leaf
def _add_rows(part, parts, dz, dy):
    """dy = the sum of all parts of dz that are as long as dy, of which each thread adds up columns of its own."""
    first, end = dy.size * part // parts, dy.size * (part + 1) // parts
    added = dy[first:end]
    added[:] = 0
    for start in range(first, dz.size, dy.size):
        row = dz[start : start + end - first]
        for i in range(added.size):
            added[i] += row[i]
