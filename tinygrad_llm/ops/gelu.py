"""Gaussian error linear unit (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415): y = x Phi(x).

`approximate="none"`, with the normal distribution itself, Phi(x) = (1 + erf(x / sqrt 2)) / 2. Its derivative is the
density phi(x) = e^{-x^2/2} / sqrt(2 pi), so

    dy/dx = Phi(x) + x phi(x).

`approximate="tanh"`, the one of GPT-2's weights, with Phi(x) = (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3):

    dy/dx = (1 + tanh u) / 2 + x (1 - tanh^2 u) / 2 du/dx,  du/dx = sqrt(2/pi) (1 + 3 · 0.044715 x^2).
"""

import math

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.devices import erfc

CUBIC = 0.044715
ROOT = math.sqrt(2 / math.pi)


def gelu_forward(x, approximate="none"):
    if approximate == "tanh":
        y = 0.5 * x * (1 + np.tanh(ROOT * (x + CUBIC * x * x * x)))
    else:
        y = x * _normal_cdf(x)
    return y, x, approximate


def gelu_backward(dy, x, approximate):
    if approximate == "tanh":
        t = np.tanh(ROOT * (x + CUBIC * x * x * x))
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * CUBIC * x * x)
    else:
        slope = _normal_cdf(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return dy * slope


def _normal_cdf(x):
    """Phi(x), from erfc, exact in both tails."""
    return (0.5 * erfc(x * -math.sqrt(0.5))).astype(x.dtype)


gelu = operation(gelu_forward, gelu_backward)
