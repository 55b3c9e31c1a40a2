"""Linear layer and cross-entropy in one: the head of a language model, which never holds all the logits.

    x = h W^T,  loss = -sum_c a_c log softmax(x)_c, a row at a time (see `cross_entropy`).

Rows are taken in chunks, so that there are never more than about LOGITS logits. The forward keeps two numbers of each
row, its largest logit m and the logarithm of s = sum_c e^{x_c - m}, from which the backward makes the row's
probabilities again, p = e^{x - m - log s}, at the price of one more product. (Their sum, one number, would cost float32
its last digits where logits are large.) Then

    dx = (sum_c a_c) p - a,  dh = dx W,  dW = dx^T h, summed over the rows.

With N rows and a vocabulary of V this takes LOGITS numbers in place of N V, the largest array of a small GPT.
Shapes: h (N, C); weight (V, C); targets (N,) of integers; the loss (N,) with `reduction="none"`, else a number.
"""

import math

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.cross_entropy import target_weights
from tinygrad_llm.ops.reduction import reduce

LOGITS = 2**25


def linear_cross_entropy_forward(h, weight, targets, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    loss, largest, log_total = (np.empty_like(h[:, 0]) for _ in range(3))
    total = 0
    for rows in chunks(len(h), len(weight)):
        x = h[rows] @ weight.T  # (rows, V)
        a, weights = target_weights(x, targets[rows], None, ignore_index, label_smoothing)
        largest[rows] = x.max(axis=-1)
        x = x - largest[rows, None]
        log_total[rows] = np.log(np.exp(x).sum(axis=-1))
        loss[rows] = (a * (log_total[rows, None] - x)).sum(axis=-1)
        total += weights
    mean = reduction == "mean"
    y = loss.sum() / total if mean else reduce(loss, reduction)
    divisor = (total if mean else 1) or np.inf  # where no row counts the gradient is 0
    return y, h, weight, targets, largest, log_total, ignore_index, label_smoothing, divisor


def linear_cross_entropy_backward(
    dy, h, weight, targets, largest, log_total, ignore_index, label_smoothing, divisor, needs
):
    dh = np.empty_like(h) if needs[0] else None
    dweight = np.zeros_like(weight) if needs[1] else None
    row_dy = np.broadcast_to(dy / divisor, log_total.shape)
    for rows in chunks(len(h), len(weight)):
        x = h[rows] @ weight.T
        p = np.exp(x - largest[rows, None] - log_total[rows, None])
        a, _ = target_weights(x, targets[rows], None, ignore_index, label_smoothing)
        # loss = -sum_c a_c log p_c
        dx = row_dy[rows, None] * (a.sum(axis=-1, keepdims=True) * p - a)
        # x = h W^T
        if needs[0]:
            dh[rows] = dx @ weight
        if needs[1]:
            dweight += dx.T @ h[rows]
    return dh, dweight


def chunks(count: int, classes: int) -> list[slice]:
    """So many rows of so many logits, cut as evenly as can be."""
    rows = math.ceil(count / max(math.ceil(count * classes / LOGITS), 1))
    return [slice(start, min(start + rows, count)) for start in range(0, count, max(rows, 1))]


linear_cross_entropy = operation(linear_cross_entropy_forward, linear_cross_entropy_backward)
