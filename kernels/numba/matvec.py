"""Products of few rows with a large matrix, y = x W^T + b: what decoding, one token at a time, is made of.

Each row of W is read once, from memory, and meets every row of x, which stay in the cache: the time is that of reading
W. `product` would first copy W into panels, which is worth it where many rows of x use them.
"""

from tinygrad_llm.kernels.numba.common import helper
from tinygrad_llm.kernels.numba.simd import fma, load, load_first, spread, total
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.kernels.numba.vectors import lanes
from tinygrad_llm.memory import empty

FEW = 8  # rows


def matvec(x, weight, bias=None):
    """x (rows, K) times the transpose of weight (N, K), plus bias (N,): (rows, N). All are contiguous."""
    (rows, size), columns = x.shape, len(weight)
    y = empty((rows, columns), x.dtype)
    _matvec(x.reshape(-1), weight.reshape(-1), x[0, :0] if bias is None else bias, y.reshape(-1), rows, columns, size)
    return y


@leaf
def _matvec(part, parts, x, weight, bias, y, rows, columns, size):
    for o in range(columns * part // parts, columns * (part + 1) // parts):
        for i in range(rows):
            y[i * columns + o] = dot(x, i * size, weight, o * size, size) + (bias[o] if bias.size else 0)


@helper
def dot(x, x_start, w, w_start, size):
    """The sum of x[x_start + k] w[w_start + k] for k < size: four vectors of sums, as each waits for its last one."""
    wide = lanes(x)
    a = b = c = d = spread(x, 0.0)
    for k in range(0, size - 4 * wide + 1, 4 * wide):
        i, j = x_start + k, w_start + k
        a = fma(load(x, i), load(w, j), a)
        b = fma(load(x, i + wide), load(w, j + wide), b)
        c = fma(load(x, i + 2 * wide), load(w, j + 2 * wide), c)
        d = fma(load(x, i + 3 * wide), load(w, j + 3 * wide), d)
    for k in range(size // (4 * wide) * 4 * wide, size, wide):
        left = size - k
        a = fma(load_first(x, x_start + k, left), load_first(w, w_start + k, left), a)
    return total((a + b) + (c + d))
