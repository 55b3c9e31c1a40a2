"""Root-mean-square normalization by the loops of layernorm, whose page explains them; `tinygrad_llm.ops.rmsnorm` has
the definition and the derivation."""

from tinygrad_llm.kernels.numba.layernorm import normalize, normalize_backward


def rmsnorm_forward(x, weight=None, eps=1e-6):
    _, y, *saved = normalize(x, None, weight, None, eps, False)
    return y, weight, *saved


def add_rmsnorm_forward(x, residual, weight, eps):
    """z = x + residual, then y = rmsnorm(z) and what its backward needs."""
    z, y, *saved = normalize(x, residual, weight, None, eps, False)
    return z, y, weight, *saved


def rmsnorm_backward(dy, weight, rows, mean, rstd, arrived=None):
    dx, dweight, _ = normalize_backward(dy, rows, weight, mean, rstd, False, arrived)
    return dx, dweight if weight is not None else None
