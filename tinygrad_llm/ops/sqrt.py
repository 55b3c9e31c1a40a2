"""Square root: y = x^(1/2).

    dy/dx = x^(-1/2) / 2 = 1 / (2 y), so dx = dy / (2 y), infinite at x = 0.
"""

import numpy as np

from tinygrad_llm.autograd import operation


def sqrt_forward(x):
    y = np.sqrt(x)
    return y, y


def sqrt_backward(dy, y):
    return dy / (2 * y)


sqrt = operation(sqrt_forward, sqrt_backward)
