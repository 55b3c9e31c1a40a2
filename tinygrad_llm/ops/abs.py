"""Absolute value: y = |x|.

    dy/dx = sign x, so dx = dy sign(x), zero at x = 0.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def abs_forward(x):
    return np.abs(x), x


def abs_backward(dy, x):
    return dy * np.sign(x)


abs = operation(abs_forward, abs_backward)
