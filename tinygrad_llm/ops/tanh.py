"""Hyperbolic tangent: y = (e^x - e^-x) / (e^x + e^-x).

    dy/dx = 1 - y^2, so dx = dy (1 - y^2): the quotient rule on sinh x / cosh x gives (cosh^2 x - sinh^2 x) / cosh^2 x.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def tanh_forward(x):
    y = np.tanh(x)
    return y, y


def tanh_backward(dy, y):
    return dy * (1 - y * y)


tanh = operation(tanh_forward, tanh_backward)
