"""Sigmoid linear unit: y = x s with s = sigmoid(x) (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415).

    dy/dx = s + x s (1 - s) = s (1 + x (1 - s)), by the product rule and ds/dx = s (1 - s).
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.sigmoid import sigmoid_forward


def silu_forward(x):
    s, _ = sigmoid_forward(x)
    return x * s, x, s


def silu_backward(dy, x, s):
    return dy * s * (1 + x * (1 - s))


silu = operation(silu_forward, silu_backward)
