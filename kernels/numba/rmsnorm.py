"""Root-mean-square normalization a row at a time: `tinygrad_llm.ops.rmsnorm` has the definition and the derivation.

As in `layernorm`, a row stays in the first-level cache between the passes over it, and each thread adds up its own
rows' part of dweight.
"""

import numpy as np

from tinygrad_llm.kernels.numba.simd import load, spread, store, total
from tinygrad_llm.kernels.numba.threads import leaf, sums
from tinygrad_llm.kernels.numba.vectors import lanes
from tinygrad_llm.memory import empty


def rmsnorm_forward(x, weight=None, eps=1e-6):
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    y, rstd = empty(rows.shape, rows.dtype), np.empty_like(rows[:, 0])
    _normalize(rows, _or_ones(weight, rows), x.dtype.type(eps), y, rstd)
    return y.reshape(x.shape), rows, weight, rstd


def rmsnorm_backward(dy, rows, weight, rstd):
    rows_dy, dx = np.ascontiguousarray(dy).reshape(rows.shape), empty(rows.shape, rows.dtype)
    added = sums(rows.shape[1], rows.dtype)
    _normalize_backward(rows_dy, rows, _or_ones(weight, rows), rstd, dx, added)
    return dx.reshape(dy.shape), added.sum(axis=0)[: rows.shape[1]] if weight is not None else None


def _or_ones(weight, rows):
    return np.ones(rows.shape[1], rows.dtype) if weight is None else np.ascontiguousarray(weight)


@leaf
def _normalize(part, parts, x, weight, eps, y, rstd):
    width = x.shape[1]
    one, size = x.dtype.type(1), x.dtype.type(width)
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        xs, ys = x[i], y[i]
        square = x.dtype.type(0)
        for c in range(width):
            square += xs[c] * xs[c]
        rstd[i] = scale = np.sqrt(one / (square / size + eps))  # 1 / sqrt is estimated, and makes infinity NaN
        for c in range(width):
            ys[c] = xs[c] * scale * weight[c]


@leaf
def _normalize_backward(part, parts, dy, x, weight, rstd, dx, added):
    rows, width = x.shape
    dys, xs, dxs, mine = dy.reshape(-1), x.reshape(-1), dx.reshape(-1), added[part]
    step = lanes(xs)
    whole = width // step * step
    for i in range(rows * part // parts, rows * (part + 1) // parts):
        scale, start = rstd[i], i * width
        g_xhat = spread(xs, x.dtype.type(0))
        for c in range(0, whole, step):
            d_xhat = load(dys, start + c) * load(xs, start + c) * scale
            store(mine, c, load(mine, c) + d_xhat)
            g_xhat = g_xhat + d_xhat * load(weight, c)
        sum_g_xhat = total(g_xhat)
        for c in range(whole, width):
            d_xhat = dys[start + c] * xs[start + c] * scale
            mine[c] += d_xhat
            sum_g_xhat += d_xhat * weight[c]
        mean_g_xhat = sum_g_xhat / x.dtype.type(width)
        for c in range(0, whole, step):
            xhat = load(xs, start + c) * scale
            store(dxs, start + c, (load(dys, start + c) * load(weight, c) - xhat * mean_g_xhat) * scale)
        for c in range(whole, width):
            xhat = xs[start + c] * scale
            dxs[start + c] = (dys[start + c] * weight[c] - xhat * mean_g_xhat) * scale
