"""Linear layer by cuBLAS: `tinygrad_llm.ops.linear` has the definition and the derivation.

The product is added to rows that are the bias already, so that both are rounded once. For few rows of x, as in
decoding, y is `matvec`'s.
"""

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.cuda.column_sums import add_parts
from tinygrad_llm.kernels.cuda.elements import alike, launch_tiles
from tinygrad_llm.kernels.cuda.matvec import FEW, matvec
from tinygrad_llm.kernels.cuda.product import product

SOURCE = "linear.cu"


def linear_forward(x, weight, bias=None):
    y = affine(rows_of(x), weight, bias)
    return y.reshape(*x.shape[:-1], len(weight)), x, weight, bias is not None


def linear_backward(dy, x, weight, has_bias, needs, out):
    dx, dweight, dbias = gradients(rows_of(dy), rows_of(x), weight, has_bias, needs, out)
    return None if dx is None else dx.reshape(x.shape), dweight, dbias


def affine(x, weight, bias):
    """y = x W^T + b of rows of x."""
    if weight.dtype != x.dtype:
        raise Unsupported(f"{x.dtype} with a weight of {weight.dtype}")
    if len(x) <= FEW:
        return matvec(x, weight, bias)
    if bias is None:
        return product(x, weight.T)
    y = cupy().empty((len(x), len(weight)), x.dtype)
    y[...] = bias
    return product(x, weight.T, y, add=True)


def gradients(dy, x, weight, has_bias, needs, out):
    """Those of `affine`, dW where `out[1]` says: rows of dy and x."""
    dx = product(dy, weight) if needs[0] else None
    dweight = product(dy.T, x, *out[1]) if needs[1] else None
    return dx, dweight, column_sums(dy) if has_bias else None


def column_sums(dy):
    """The sum of dy (M, N) over its rows: (N,)."""
    (dy,) = alike(dy)
    return add_parts(launch_tiles(SOURCE, "sum_columns", dy, (dy,), sums=1), dy.dtype, True)[0]


def rows_of(x):
    """x (..., C) as a matrix."""
    return x.reshape(-1, x.shape[-1])
