"""Linear layer: `tinygrad_llm.ops.linear` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors, tensor


@on_tensors
def linear_forward(x, weight, bias=None):
    y = affine(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.reshape(*x.shape[:-1], len(weight)), (x, weight, bias is not None)


@on_tensors
def linear_backward(dy, saved, needs, out):
    x, weight, has_bias = saved
    dx, *others = gradients(dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]), weight, has_bias, needs, out)
    return None if dx is None else dx.reshape(x.shape), *others


def affine(rows, weight, bias):
    """y = x W^T + b of rows of x."""
    return rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)


def gradients(dy, x, weight, has_bias, needs, out):
    """Those of `affine`, dW where `out[1]` says: rows of dy and x."""
    dx = dy @ weight if needs[0] else None
    dweight = product(dy.T, x, *out[1]) if needs[1] else None
    return dx, dweight, dy.sum(0) if has_bias else None


def product(a, b, out=None, add=False):
    """a b, written or with `add` added to the array `out`, if that is given, and then `out` itself."""
    if out is None:
        return a @ b
    tensor(out).addmm_(a, b, beta=int(add))
    return out
