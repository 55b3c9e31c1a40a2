"""Layer normalization a row at a time: `tinygrad_llm.ops.layernorm` has the definition and the derivation.

NumPy passes over all of x for every operator of the formula. A row of a few thousand numbers stays in the first-level
cache, so here the three passes over it (mean, variance, result) cost about as much as reading it once from memory.

dweight and dbias are sums over rows, which the threads share. Each thread adds up its own rows in an array of its own,
and these are added in order, so the bits depend on the number of threads alone, never on which was faster.
"""

import numba
import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty


def layernorm_forward(x, weight, bias, eps=1e-5):
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    y, mean, rstd = empty(rows.shape, rows.dtype), np.empty_like(rows[:, 0]), np.empty_like(rows[:, 0])
    _normalize(rows, _or_constant(weight, 1, rows), _or_constant(bias, 0, rows), x.dtype.type(eps), y, mean, rstd)
    return y.reshape(x.shape), rows, weight, bias is not None, mean, rstd


def layernorm_backward(dy, rows, weight, has_bias, mean, rstd):
    rows_dy, dx = np.ascontiguousarray(dy).reshape(rows.shape), empty(rows.shape, rows.dtype)
    dweight, dbias = np.zeros((2, numba.get_num_threads(), rows.shape[1]), rows.dtype)
    _normalize_backward(rows_dy, rows, _or_constant(weight, 1, rows), mean, rstd, dx, dweight, dbias)
    return (
        dx.reshape(dy.shape),
        dweight.sum(axis=0) if weight is not None else None,
        dbias.sum(axis=0) if has_bias else None,
    )


def _or_constant(vector, constant, rows):
    return np.full(rows.shape[1], constant if vector is None else vector, rows.dtype)


@leaf
def _normalize(part, parts, x, weight, bias, eps, y, mean, rstd):
    width = x.shape[1]
    one, size = x.dtype.type(1), x.dtype.type(width)
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        xs, ys = x[i], y[i]
        total = square = x.dtype.type(0)
        for c in range(width):
            total += xs[c]
        center = total / size
        for c in range(width):
            square += (xs[c] - center) * (xs[c] - center)
        scale = one / np.sqrt(square / size + eps)
        for c in range(width):
            ys[c] = (xs[c] - center) * scale * weight[c] + bias[c]
        mean[i], rstd[i] = center, scale


@leaf
def _normalize_backward(part, parts, dy, x, weight, mean, rstd, dx, dweight, dbias):
    rows, width = x.shape
    size = x.dtype.type(width)
    dw, db = dweight[part], dbias[part]
    for i in range(rows * part // parts, rows * (part + 1) // parts):
        dys, xs, dxs, center, scale = dy[i], x[i], dx[i], mean[i], rstd[i]
        sum_g = sum_g_xhat = x.dtype.type(0)
        for c in range(width):
            xhat = (xs[c] - center) * scale
            dw[c] += dys[c] * xhat
            db[c] += dys[c]
            sum_g += dys[c] * weight[c]
            sum_g_xhat += dys[c] * weight[c] * xhat
        mean_g, mean_g_xhat = sum_g / size, sum_g_xhat / size
        for c in range(width):
            xhat = (xs[c] - center) * scale
            dxs[c] = scale * (dys[c] * weight[c] - mean_g - xhat * mean_g_xhat)
