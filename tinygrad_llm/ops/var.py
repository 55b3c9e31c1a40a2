"""Variance over the axes `dim` (all by default), which stay as axes of size one with `keepdim`.

    mean = sum_i x_i / n,  y = sum_i (x_i - mean)^2 / (n - correction).

`correction` 1 makes it the unbiased estimate of a population's variance (Bessel). Derivation:

    dy/dx_j = 2 / (n - correction) sum_i (x_i - mean) ([i = j] - 1/n) = 2 (x_j - mean) / (n - correction),

since the deviations x_i - mean sum to zero.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import keep_axes
from tinygrad_llm.ops.masked_fill import masked_fill
from tinygrad_llm.ops.sqrt import sqrt
from tinygrad_llm.tensor import Tensor


def var_forward(x, dim=None, correction=1, keepdim=False):
    mean = np.mean(x, axis=dim, keepdims=True)
    deviations = x - mean
    freedom = max(x.size // max(mean.size, 1) - correction, 0)
    y = np.sum(deviations * deviations, axis=dim, keepdims=keepdim) / freedom
    return y, deviations, dim, freedom


def var_backward(dy, deviations, dim, freedom):
    return keep_axes(dy, deviations.shape, dim) * deviations * 2 / freedom


var = operation(var_forward, var_backward)


def std(x: Tensor, dim=None, correction: float = 1, keepdim: bool = False) -> Tensor:
    """Standard deviation, the square root of the variance; its gradient is zero where all elements are equal."""
    variance = var(x, dim, correction, keepdim)
    constant = variance.data == 0  # there the square root has no derivative
    return masked_fill(sqrt(masked_fill(variance, constant, 1.0)), constant, 0.0)
