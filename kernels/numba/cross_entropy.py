"""Cross-entropy that keeps two numbers a row: `tinygrad_llm.ops.cross_entropy` has the definition and the derivation.

NumPy's page makes several arrays as large as the logits. Here the forward passes twice over a row, which stays in the
cache, and keeps two numbers of it: the highest, and total = sum_c e^{x_c - highest}. (Their one-number form, the
logarithm of the sum of exponentials, would cost float32 its last digits where logits are large.) The backward makes
the probabilities again, p = e^{x - highest} / total, straight into the gradient. For a class as target, with s the
share of label smoothing,

    loss = log(total) + highest - (1 - s) x_t - s mean(x),  dx = dloss (p - s / C - (1 - s) onehot(t)).

Class weights and targets that are distributions take the page's own functions: they are rare, and need a (N, C) array.
"""

import numpy as np

from tinygrad_llm.kernels.numba.common import ordered
from tinygrad_llm.kernels.numba.simd import exp, keep_first, largest, load_first, maximum, spread, store_first, total
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.kernels.numba.vectors import lanes
from tinygrad_llm.memory import empty
from tinygrad_llm.ops import cross_entropy as page
from tinygrad_llm.ops.reduction import reduce
from tinygrad_llm.recording import decided, repeated

STRETCH = 512  # columns, a whole number of vectors, whose sum is made apart: fewer roundings


def cross_entropy_forward(logits, targets, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    if weight is not None or targets.dtype.kind == "f":
        y, *saved = page.forward(logits, targets, weight, ignore_index, reduction, label_smoothing)
        return y, page.backward, saved
    x = np.ascontiguousarray(logits)
    loss, *softmax = row_losses(x, targets, ignore_index, label_smoothing)
    divisor = decided(count, targets, ignore_index) if reduction == "mean" else 1
    y = total_loss(loss, divisor) if reduction in ("mean", "sum") else reduce(loss, reduction)
    return y, _backward, (x, targets, ignore_index, *softmax, label_smoothing, divisor or np.inf)


def cross_entropy_backward(dy, backward, saved):
    return backward(dy, *saved)


def _backward(dy, x, targets, ignore_index, highest, total, label_smoothing, divisor):
    dx, dloss = empty(x.shape, x.dtype), empty(x.shape[:1], x.dtype)
    repeated(np.divide, dy, divisor, dloss)
    row_gradients(dloss, x, targets, ignore_index, highest, total, label_smoothing, dx)
    return dx


def count(targets, ignore_index) -> int:
    """How many rows count."""
    return int((targets != ignore_index).sum())


def total_loss(loss, divisor) -> np.ndarray:
    """The sum of all rows' losses, divided by how many count."""
    y = empty((), loss.dtype)
    repeated(_add_up, loss, divisor, y)
    return y


def _add_up(loss, divisor, y) -> None:
    y[...] = loss.sum() / divisor


def _check(targets, ignore_index, classes) -> None:
    counted = targets[targets != ignore_index]
    if counted.size and not 0 <= counted.min() <= counted.max() < classes:
        raise IndexError(f"a target is none of {classes} classes")


def row_losses(x, targets, ignore_index, label_smoothing):
    """Each row's loss, 0 where it does not count, its highest logit, and total."""
    repeated(_check, targets, ignore_index, x.shape[1])
    loss, highest, total = empty((3, len(x)), x.dtype)
    _losses(x, np.ascontiguousarray(targets), ignore_index, x.dtype.type(label_smoothing), loss, highest, total)
    return loss, highest, total


def row_gradients(dloss, x, targets, ignore_index, highest, total, label_smoothing, dx) -> None:
    """Write into dx, which may be x itself, the gradient with respect to x, given that of the rows' losses."""
    targets, smoothing = np.ascontiguousarray(targets), x.dtype.type(label_smoothing)
    _softmax_minus(x, targets, ignore_index, smoothing, highest, total, dloss, dx)


@ordered
def less(log_total, x, highest):
    """log_total - (x - highest), the difference of two large numbers first."""
    return log_total - (x - highest)


@leaf
def _losses(part, parts, x, targets, ignore_index, smoothing, loss, highest, sums):
    zero, one, size = x.dtype.type(0), x.dtype.type(1), x.dtype.type(x.shape[1])
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        row, top, added, target = x[i], spread(x, -np.inf), spread(x, 0.0), targets[i]
        for c in range(0, row.size, lanes(x)):
            top = maximum(top, keep_first(load_first(row, c, row.size - c), row.size - c, -np.inf))
        row_highest = largest(top)
        for start in range(0, row.size, STRETCH):
            few = spread(x, 0.0)
            for c in range(start, min(start + STRETCH, row.size), lanes(x)):
                few = few + keep_first(exp(load_first(row, c, row.size - c) - row_highest), row.size - c, zero)
            added = added + few
        highest[i], sums[i], loss[i] = row_highest, total(added), zero
        if target != ignore_index:
            log_total = np.log(sums[i])
            loss[i] = less(log_total, row[target], row_highest)
            if smoothing > zero:
                below = zero
                for c in range(row.size):
                    below += row[c] - row_highest
                loss[i] = (one - smoothing) * loss[i] + smoothing * (log_total - below / size)


@leaf
def _softmax_minus(part, parts, x, targets, ignore_index, smoothing, highest, sums, dloss, dx):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    shift = smoothing / x.dtype.type(x.shape[1])
    for i in range(len(x) * part // parts, len(x) * (part + 1) // parts):
        row, out, share, target = x[i], dx[i], one / sums[i], targets[i]
        factor = dloss[i] if target != ignore_index else zero
        for c in range(0, row.size, lanes(x)):
            p = exp(load_first(row, c, row.size - c) - highest[i]) * share
            store_first(out, c, (p - shift) * factor, row.size - c)
        if target != ignore_index:
            out[target] -= (one - smoothing) * factor
