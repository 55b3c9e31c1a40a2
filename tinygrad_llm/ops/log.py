"""Natural logarithm: y = log x.

    dy/dx = 1 / x, so dx = dy / x.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def log_forward(x):
    return np.log(x), x


def log_backward(dy, x):
    return dy / x


log = operation(log_forward, log_backward)
