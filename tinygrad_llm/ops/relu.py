"""Rectified linear unit: y = max(x, 0).

    dy/dx = 1 for x > 0, else 0 (at x = 0, where there is none, as in torch), so dx = dy where y > 0.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def relu_forward(x):
    y = np.maximum(x, 0)
    return y, y


def relu_backward(dy, y):
    return dy * (y > 0)


relu = operation(relu_forward, relu_backward)
