"""Exponential: y = e^x.

    dy/dx = e^x = y, so dx = dy y: the result is all that the backward keeps.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def exp_forward(x):
    y = np.exp(x)
    return y, y


def exp_backward(dy, y):
    return dy * y


exp = operation(exp_forward, exp_backward)
