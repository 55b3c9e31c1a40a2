"""Negative log-likelihood: a row of log-probabilities x with the target t costs -w_t x_t, w the classes' weights.

    dx_c = -w_t [c = t] dy; a mean divides by the sum of the w_t. Rows whose target is `ignore_index` count nothing.

Shapes: x (N, C); targets (N,) of integers; weight (C,) or None; the loss (N,) with `reduction="none"`, else a number.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.reduction import reduce, total


def nll_loss_forward(x, targets, weight=None, ignore_index=-100, reduction="mean"):
    counts = targets != ignore_index
    t = np.where(counts, targets, 0)
    w = np.where(counts, 1 if weight is None else weight[t], 0).astype(x.dtype)  # (N,)
    loss = -w * x[np.arange(len(t), like=t), t]
    if reduction == "mean":
        return total(loss) / w.sum(), t, w, x.shape, w.sum() or np.inf  # where no row counts the gradient is 0
    return reduce(loss, reduction), t, w, x.shape, 1


def nll_loss_backward(dy, t, w, shape, divisor):
    dx = np.zeros(shape, w.dtype, like=w)
    dx[np.arange(len(t), like=t), t] = -w * dy / divisor
    return dx


nll_loss = operation(nll_loss_forward, nll_loss_backward)
