"""Cross-entropy that keeps two numbers a row: `tinygrad_llm.ops.cross_entropy` has the definition and the derivation.

NumPy's page makes several arrays as large as the logits. Here the forward passes twice over a row, which stays in the
cache, and keeps two numbers of it: the highest, and total = sum_c e^{x_c - highest}. (Their one-number form, the
logarithm of the sum of exponentials, would cost float32 its last digits where logits are large.) The backward makes
the probabilities again, p = e^{x - highest} / total, straight into the gradient. What concerns the targets alone, N
numbers of N C, is left to NumPy, which also checks that they are classes. For a class as target, with s the share of
label smoothing,

    loss = log(total) + highest - (1 - s) x_t - s mean(x),  dx = dloss (p - s / C - (1 - s) onehot(t)).

Class weights and targets that are distributions take the page's own functions: they are rare, and need a (N, C) array.
"""

import numpy as np

from tinygrad_llm.kernels.numba.common import exp, largest
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.ops import cross_entropy as page
from tinygrad_llm.ops.reduction import reduce


def cross_entropy_forward(logits, targets, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    if weight is not None or targets.dtype.kind == "f":
        y, *saved = page.forward(logits, targets, weight, ignore_index, reduction, label_smoothing)
        return y, page.backward, saved
    x, counts = np.ascontiguousarray(logits), targets != ignore_index
    loss, *softmax = row_losses(x, targets, counts, label_smoothing)
    divisor = int(counts.sum()) if reduction == "mean" else 1
    y = loss.sum() / divisor if reduction == "mean" else reduce(loss, reduction)
    return y, _backward, (x, targets, counts, *softmax, label_smoothing, divisor or np.inf)


def cross_entropy_backward(dy, backward, saved):
    return backward(dy, *saved)


def _backward(dy, x, targets, counts, highest, total, label_smoothing, divisor):
    dx = np.empty_like(x)
    row_gradients(dy / divisor, x, targets, counts, highest, total, label_smoothing, dx)
    return dx


def row_losses(x, targets, counts, label_smoothing):
    """Each row's loss, 0 where `counts` is false, its highest logit, and total."""
    highest, total = np.empty((2, len(x)), x.dtype)
    _exponentials(x, highest, total)
    log_total = np.log(total)
    loss = log_total - (x[np.arange(len(x)), np.where(counts, targets, 0)] - highest)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_total - (x.mean(axis=-1) - highest))
    return np.where(counts, loss, 0), highest, total


def row_gradients(dloss, x, targets, counts, highest, total, label_smoothing, dx) -> None:
    """Write into dx, which may be x itself, the gradient with respect to x, given that of the rows' losses."""
    dloss = np.where(counts, dloss, 0).astype(x.dtype)
    _softmax_minus(x, highest, total, dloss, x.dtype.type(label_smoothing / x.shape[1]), dx)
    dx[np.arange(len(x)), np.where(counts, targets, 0)] -= (1 - label_smoothing) * dloss


@leaf
def _exponentials(part, parts, x, highest, total):
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        row, row_highest, row_total = x[i], largest(x[i]), x.dtype.type(0)
        for c in range(row.size):
            row_total += exp(row[c] - row_highest)
        highest[i], total[i] = row_highest, row_total


@leaf
def _softmax_minus(part, parts, x, highest, total, dloss, shift, dx):
    one = x.dtype.type(1)
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        row, out, row_highest, share, factor = x[i], dx[i], highest[i], one / total[i], dloss[i]
        for c in range(row.size):
            out[c] = factor * (exp(row[c] - row_highest) * share - shift)
