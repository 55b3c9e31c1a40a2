"""Logarithm of the logistic sigmoid: y = log(1 / (1 + e^-x)) = -log(1 + e^-x).

    dy/dx = e^-x / (1 + e^-x) = 1 / (1 + e^x) = sigmoid(-x), so dx = dy sigmoid(-x).

The forward computes min(x, 0) - log(1 + e^-|x|), the same number, so that no exponential overflows.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.sigmoid import sigmoid_forward


def logsigmoid_forward(x):
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))), x


def logsigmoid_backward(dy, x):
    return dy * sigmoid_forward(-x)[0]


logsigmoid = operation(logsigmoid_forward, logsigmoid_backward)
