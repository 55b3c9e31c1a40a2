"""Root-mean-square normalization by the loops of layernorm, whose page explains them; `tinygrad_llm.ops.rmsnorm` has
the definition and the derivation."""

from tinygrad_llm.kernels.numba.layernorm import normalize, normalize_backward


def rmsnorm_forward(x, weight=None, eps=1e-6):
    y, *saved = normalize(x, weight, None, eps, False)
    return y, weight, *saved


def rmsnorm_backward(dy, weight, rows, mean, rstd):
    dx, dweight, _ = normalize_backward(dy, rows, weight, mean, rstd, False)
    return dx, dweight if weight is not None else None
