"""Kullback-Leibler divergence of log-probabilities x from a target: t (log t - x), element by element, then reduced.

    dx = -t dy;  dt = (log t - x + 1) dy.

With `log_target` the target is u = log t: the same loss is e^u (u - x), so dx = -e^u dy and du = e^u (u - x + 1) dy.
Where t = 0 the loss is 0, the limit, and for t < 0 it is no number. `reduction="batchmean"`, the divergence itself,
divides by the number of rows; "mean" divides by the number of elements. Shapes: x and target the same.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.reduction import reduce, reduce_backward, total


def kl_div_forward(x, target, reduction="mean", log_target=False):
    if log_target:
        loss = np.exp(target) * (target - x)
    else:
        loss = np.where(target == 0, 0, target * (np.log(np.where(target == 0, 1, target)) - x))
    y = total(loss) / rows(x) if reduction == "batchmean" else reduce(loss, reduction)
    return y, x, target, reduction, log_target


def kl_div_backward(dy, x, target, reduction, log_target, needs):
    dloss = dy / rows(x) if reduction == "batchmean" else reduce_backward(dy, x.size, reduction)
    if log_target:
        t = np.exp(target)
        dtarget = dloss * t * (target - x + 1)
    else:
        t = target
        dtarget = dloss * (np.log(target) - x + 1) if needs[1] else None  # infinite at t = 0
    return -t * dloss, dtarget


def rows(x) -> int:
    """How many there are; a number is one."""
    return len(x) if x.ndim else 1


kl_div = operation(kl_div_forward, kl_div_backward)
