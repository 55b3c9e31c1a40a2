"""Mean squared error: (x - target)^2, element by element, then reduced.

    dx = 2 (x - target) dy,  dtarget = -dx, divided by the number of elements for a mean.

Shapes: x and target broadcast to one another.
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.reduction import reduce, reduce_backward


def mse_loss_forward(x, target, reduction="mean"):
    difference = x - target
    return reduce(difference * difference, reduction), x, target, reduction


def mse_loss_backward(dy, x, target, reduction):
    difference = x - target
    d = 2 * difference * reduce_backward(dy, difference.size, reduction)
    return unbroadcast(d, x), unbroadcast(-d, target)


mse_loss = operation(mse_loss_forward, mse_loss_backward)
