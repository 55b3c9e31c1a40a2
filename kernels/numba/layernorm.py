"""Layer normalization a row at a time: `tinygrad_llm.ops.layernorm` has the definition and the derivation.

NumPy passes over all of x for every operator of the formula. A row of a few thousand numbers stays in the first-level
cache, so here the three passes over it (mean, variance, result) cost about as much as reading it once from memory.

Root-mean-square normalization is the same without `centered`: the mean, and what comes of it, is then 0.

A sum z = x + residual before the norm, and in the backward the gradient of x that has arrived from elsewhere, which is
to be added to its own, come along in the same passes: `add_layernorm_forward` and `arrived`.

dweight and dbias are sums over rows, which the threads share. Each thread adds up its own rows in an array of its own,
and these are added in order, so the bits depend on the number of threads alone, never on which was faster.
"""

import numpy as np

from tinygrad_llm.kernels.numba.common import constant
from tinygrad_llm.kernels.numba.simd import load, spread, store, total
from tinygrad_llm.kernels.numba.threads import leaf, sums, total_of
from tinygrad_llm.kernels.numba.vectors import lanes
from tinygrad_llm.memory import empty


def layernorm_forward(x, weight, bias, eps=1e-5):
    _, y, rows, mean, rstd = normalize(x, None, weight, bias, eps, True)
    return y, rows, weight, bias is not None, mean, rstd


def add_layernorm_forward(x, residual, weight, bias, eps):
    """z = x + residual, then y = layernorm(z) and what its backward needs."""
    z, y, rows, mean, rstd = normalize(x, residual, weight, bias, eps, True)
    return z, y, rows, weight, bias is not None, mean, rstd


def layernorm_backward(dy, rows, weight, has_bias, mean, rstd, arrived=None):
    dx, dweight, dbias = normalize_backward(dy, rows, weight, mean, rstd, True, arrived)
    return dx, dweight if weight is not None else None, dbias if has_bias else None


def normalize(x, residual, weight, bias, eps, centered):
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    residual = rows[:0] if residual is None else np.ascontiguousarray(residual).reshape(rows.shape)
    z = empty(rows.shape, rows.dtype) if residual.size else rows
    y, mean, rstd = (empty(shape, rows.dtype) for shape in (rows.shape, rows.shape[:1], rows.shape[:1]))
    constants = _or_constant(weight, 1, rows), _or_constant(bias, 0, rows), x.dtype.type(eps)
    _normalize(rows, residual, *constants, z, y, mean, rstd, centered)
    return z.reshape(x.shape), y.reshape(x.shape), z, mean, rstd


def normalize_backward(dy, rows, weight, mean, rstd, centered, arrived):
    rows_dy, dx = np.ascontiguousarray(dy).reshape(rows.shape), empty(rows.shape, rows.dtype)
    arrived = rows[:0] if arrived is None else np.ascontiguousarray(arrived)
    width = rows.shape[1]
    added = sums(2 * width, rows.dtype)
    constants = _or_constant(weight, 1, rows), mean, rstd
    _normalize_backward(rows_dy, rows, *constants, arrived.reshape(-1), dx, added, centered)
    return dx.reshape(dy.shape), *total_of(added, 2 * width).reshape(2, width)


def _or_constant(vector, value, rows):
    if vector is None:
        return constant(rows.shape[1], value, rows.dtype)
    return np.ascontiguousarray(vector, rows.dtype).reshape(rows.shape[1])  # an error where the sizes differ


@leaf
def _normalize(part, parts, x, residual, weight, bias, eps, z, y, mean, rstd, centered):
    width = x.shape[1]
    one, size = x.dtype.type(1), x.dtype.type(width)
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        xs, ys = z[i], y[i]
        if residual.size:
            for c in range(width):
                xs[c] = x[i, c] + residual[i, c]
        sum_x = square = x.dtype.type(0)
        for c in range(width if centered else 0):
            sum_x += xs[c]
        center = sum_x / size
        for c in range(width):
            square += (xs[c] - center) * (xs[c] - center)
        scale = np.sqrt(one / (square / size + eps))  # the reciprocal of a root is estimated, and infinity becomes NaN
        for c in range(width):
            ys[c] = (xs[c] - center) * scale * weight[c] + bias[c]
        mean[i], rstd[i] = center, scale


@leaf
def _normalize_backward(part, parts, dy, x, weight, mean, rstd, arrived, dx, added, centered):
    rows, width = x.shape
    dys, xs, dxs, mine = dy.reshape(-1), x.reshape(-1), dx.reshape(-1), added[part]
    size, zero = x.dtype.type(width), x.dtype.type(0)
    step = lanes(xs)
    whole = width // step * step
    for c in range(2 * width):
        mine[c] = zero
    for i in range(rows * part // parts, rows * (part + 1) // parts):
        center, scale, start = mean[i], rstd[i], i * width
        g_sum = g_xhat_sum = spread(xs, zero)
        for c in range(0, whole, step):
            d, xhat = load(dys, start + c), (load(xs, start + c) - center) * scale
            g = d * load(weight, c)
            store(mine, c, load(mine, c) + d * xhat)
            store(mine, width + c, load(mine, width + c) + d)
            g_sum, g_xhat_sum = g_sum + g, g_xhat_sum + g * xhat
        sum_g, sum_g_xhat = total(g_sum), total(g_xhat_sum)
        for c in range(whole, width):
            d, xhat = dys[start + c], (xs[start + c] - center) * scale
            mine[c] += d * xhat
            mine[width + c] += d
            sum_g += d * weight[c]
            sum_g_xhat += d * weight[c] * xhat
        mean_g, mean_g_xhat = (sum_g if centered else zero) / size, sum_g_xhat / size
        for c in range(0, whole, step):
            d, xhat = load(dys, start + c), (load(xs, start + c) - center) * scale
            gradient = (d * load(weight, c) - mean_g - xhat * mean_g_xhat) * scale
            store(dxs, start + c, gradient + load(arrived, start + c) if arrived.size else gradient)
        for c in range(whole, width):
            xhat = (xs[start + c] - center) * scale
            dxs[start + c] = scale * (dys[start + c] * weight[c] - mean_g - xhat * mean_g_xhat)
            if arrived.size:
                dxs[start + c] += arrived[start + c]
