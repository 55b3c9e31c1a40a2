"""Negation: y = -x.

    dy/dx = -1, so dx = -dy.
"""

from tinygrad_llm.autograd import operation


def neg_forward(x):
    return -x


def neg_backward(dy):
    return -dy


neg = operation(neg_forward, neg_backward)
