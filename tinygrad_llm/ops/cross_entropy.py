"""Cross-entropy of logits against targets: the negative log-likelihood of the softmax.

With p = softmax(x) along a row of C classes and a_c the weight that the target gives to class c,

    loss = - sum_c a_c log p_c.

A target that is a class t gives a_c = w_t [c = t]; one that is a distribution q gives a_c = w_c q_c; label smoothing
(Szegedy et al. 2016) takes the share `label_smoothing` away and spreads it: a_c = (1 - s) a_c + s w_c / C.

Derivation: d log p_c / dx_i = [i = c] - p_i, so

    dx_i = (sum_c a_c) p_i - a_i,

which is p - onehot(t) in the plain case. The mean over rows divides by the sum of the weights w_t of the rows that
count, or by the number of rows where targets are distributions. Rows whose target is `ignore_index` have a = 0.

Shapes: logits (N, C); targets (N,) of integers, or (N, C) of probabilities; weight (C,) or None; the loss (N,) with
`reduction="none"`, else a single number.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.reduction import reduce
from tinygrad_llm.tensor import floating


def cross_entropy_forward(logits, targets, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    a, total = target_weights(logits, targets, weight, ignore_index, label_smoothing)
    logp = logits - logits.max(axis=-1, keepdims=True)
    logp = logp - np.log(np.exp(logp).sum(axis=-1, keepdims=True))
    loss = -(a * np.where(a == 0, 0, logp)).sum(axis=-1)  # (N,)
    y = loss.sum() / total if reduction == "mean" else reduce(loss, reduction)
    return y, logp, a, (total if reduction == "mean" else 1) or np.inf  # where no row counts the gradient is 0


def cross_entropy_backward(dy, logp, a, divisor):
    row_dy = np.reshape(dy / divisor, (-1, 1))
    # loss = -sum_c a_c logp_c
    return row_dy * (a.sum(axis=-1, keepdims=True) * np.exp(logp) - a)


def target_weights(logits, targets, weight, ignore_index, label_smoothing):
    """a (N, C), and what the mean divides by."""
    rows, classes = logits.shape
    w = np.ones_like(logits, shape=classes) if weight is None else weight
    if floating(targets.dtype):
        smooth = (1 - label_smoothing) * targets + label_smoothing / classes
        return w * smooth.astype(logits.dtype), rows
    counts = targets != ignore_index
    t = np.where(counts, targets, 0)
    a = np.zeros_like(logits)
    a[np.arange(rows, like=t), t] = (1 - label_smoothing) * w[t]
    a += label_smoothing / classes * w
    a[~counts] = 0
    return a, np.where(counts, w[t], 0).sum()


cross_entropy = operation(cross_entropy_forward, cross_entropy_backward)
