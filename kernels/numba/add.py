"""Addition on all threads: `tinygrad_llm.ops.add` has the definition.

NumPy adds on one thread, and a shortcut's two summands lie half in the other core's cache. What broadcasts, or has gaps
in memory, takes the page's own function.
"""

import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty
from tinygrad_llm.ops import add as page


def add_forward(x, y):
    kinds = [(z.shape, z.dtype, z.flags.c_contiguous) if isinstance(z, np.ndarray) else None for z in (x, y)]
    if kinds[0] != kinds[1] or not kinds[0][2]:
        z, *saved = page.forward(x, y)
        return z, saved
    z = empty(x.shape, x.dtype)
    _add(x.reshape(-1), y.reshape(-1), z.reshape(-1))
    return z, None  # of shapes that are alike nothing need be kept


def add_backward(dz, saved, needs):
    return (dz, dz) if saved is None else page.backward(dz, *saved, needs)


@leaf
def _add(part, parts, x, y, z):
    mine = slice(x.size * part // parts, x.size * (part + 1) // parts)
    xs, ys, zs = x[mine], y[mine], z[mine]
    for i in range(xs.size):
        zs[i] = xs[i] + ys[i]
