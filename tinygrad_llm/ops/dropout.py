"""Dropout (Srivastava et al. 2014): y = x / (1 - p) where `keep` is true, 0 elsewhere, so that the mean of y is x.

    dy/dx is the same factor, so dx is dropout of dy with the same mask.

`keep` are booleans, each true with probability 1 - p, or the `random.Mask` that they are made of; who calls the
operation draws it.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.random import booleans


def dropout_forward(x, keep, p):
    keep = booleans(keep, x)
    return np.where(keep, x * _scale(p), 0), keep, p


def dropout_backward(dy, keep, p):
    return np.where(keep, dy * _scale(p), 0)


def _scale(p):
    return 1 / (1 - p) if p < 1 else 0.0


dropout = operation(dropout_forward, dropout_backward)
