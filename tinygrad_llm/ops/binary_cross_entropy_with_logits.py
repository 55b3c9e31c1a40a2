"""Binary cross-entropy of logits x against targets t in [0, 1], weighted, then reduced.

    loss = w (-c t log sigmoid(x) - (1 - t) log(1 - sigmoid(x))) = w ((1 - t) x + k softplus(-x)),  k = 1 + (c - 1) t,

where w is `weight` and c is `pos_weight`, and softplus(-x) = log(1 + e^{-x}) = max(-x, 0) + log(1 + e^{-|x|}) does not
overflow. Since softplus'(-x) = -sigmoid(-x) = sigmoid(x) - 1,

    dx = w ((1 - t) - k sigmoid(-x)) dy,  dt = w (-x + (c - 1) softplus(-x)) dy.

Shapes: x and target the same; weight and pos_weight None or what broadcasts to them.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.reduction import reduce, reduce_backward
from tinygrad_llm.ops.sigmoid import sigmoid_forward


def binary_cross_entropy_with_logits_forward(x, target, weight=None, pos_weight=None, reduction="mean"):
    w, c = 1 if weight is None else weight, 1 if pos_weight is None else pos_weight
    loss = w * ((1 - target) * x + (1 + (c - 1) * target) * softplus_of_minus(x))
    return reduce(loss, reduction), x, target, w, c, reduction


def binary_cross_entropy_with_logits_backward(dy, x, target, w, c, reduction):
    dloss = w * reduce_backward(dy, x.size, reduction)
    dx = dloss * ((1 - target) - (1 + (c - 1) * target) * sigmoid_forward(-x)[0])
    dtarget = dloss * ((c - 1) * softplus_of_minus(x) - x)
    return dx, dtarget


def softplus_of_minus(x):
    """log(1 + e^{-x})"""
    return np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))


binary_cross_entropy_with_logits = operation(
    binary_cross_entropy_with_logits_forward, binary_cross_entropy_with_logits_backward
)
