"""The head and its loss in chunks: `tinygrad_llm.ops.linear_cross_entropy` has the definition and the derivation.

The products are `product`'s, a chunk of rows at a time. The softmax and its gradient are the loops of `cross_entropy`,
the gradient written over the logits, so nothing else of their size is ever made.
"""

import numpy as np

from tinygrad_llm.kernels.numba.cross_entropy import row_gradients, row_losses
from tinygrad_llm.kernels.numba.product import product
from tinygrad_llm.ops.linear_cross_entropy import chunks
from tinygrad_llm.ops.reduction import reduce


def linear_cross_entropy_forward(h, weight, targets, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    counts = targets != ignore_index
    loss, highest, total = np.empty((3, len(h)), h.dtype)
    for rows in chunks(len(h)):
        x = product(h[rows], weight.T)  # (ROWS, V)
        loss[rows], highest[rows], total[rows] = row_losses(x, targets[rows], counts[rows], label_smoothing)
    divisor = int(counts.sum()) if reduction == "mean" else 1
    y = loss.sum() / divisor if reduction == "mean" else reduce(loss, reduction)
    return y, h, weight, targets, counts, highest, total, label_smoothing, divisor


def linear_cross_entropy_backward(dy, h, weight, targets, counts, highest, total, label_smoothing, divisor, needs):
    dh = np.empty_like(h) if needs[0] else None
    dweight = np.zeros_like(weight) if needs[1] else None
    dloss = np.broadcast_to(dy / divisor, len(h))
    for rows in chunks(len(h)):
        dx = x = product(h[rows], weight.T)
        softmax = highest[rows], total[rows]
        row_gradients(dloss[rows], x, targets[rows], counts[rows], *softmax, label_smoothing, dx)
        if needs[0]:
            dh[rows] = product(dx, weight)
        if needs[1]:
            dweight += product(dx.T, h[rows])
    return dh, dweight
