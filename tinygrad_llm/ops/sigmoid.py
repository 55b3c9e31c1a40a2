"""Logistic sigmoid: y = 1 / (1 + e^-x).

    dy/dx = e^-x / (1 + e^-x)^2 = y (1 - y), so dx = dy y (1 - y).

For x < 0 the forward computes e^x / (1 + e^x), the same number, so that no exponential overflows.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def sigmoid_forward(x):
    e = np.exp(-np.abs(x))
    y = np.where(x >= 0, 1, e) / (1 + e)
    return y, y


def sigmoid_backward(dy, y):
    return dy * y * (1 - y)


sigmoid = operation(sigmoid_forward, sigmoid_backward)
