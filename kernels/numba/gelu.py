"""GELU in one pass over memory: `tinygrad_llm.ops.gelu` has the definition and the derivation.

NumPy makes a new array for every operator of the formula; here each element is read once and written once, and only x
is kept for the backward. `product` calls these loops for rows that it has just computed, which costs no memory at all.
What is left is the speed of the exponential, so both forms are written in terms of it:

- tanh: (1 + tanh u) / 2 = 1 / (1 + e^{-2u}), so y = x / (1 + e^{-2u}).
- none: Phi has no closed form, and the C library's erfc takes one number at a time. In float32, its tail is
  Phi(-z) = e^{-z^2/2} t P(t), t = 1 / (1 + z/4), z >= 0, with a polynomial P: Phi(-z) / e^{-z^2/2}, Mills' ratio, is
  smooth in t. P interpolates it at ten Chebyshev points, right to 9e-8 of Phi(-z). The same e^{-z^2/2} gives the
  density. Float64, the precision of checks, keeps erfc.
"""

import math

import numba
import numpy as np
from numba.extending import overload

from tinygrad_llm.kernels.numba.common import exp, helper
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty
from tinygrad_llm.ops.gelu import CUBIC, ROOT

ROOT_HALF = math.sqrt(0.5)
DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)
TAIL = np.array(  # P's coefficients, from the constant one up
    [
        *(0.0997355594, 0.0997374879, 0.0934380558, 0.0819003187, 0.0574036085),
        *(0.0683744962, -0.0398906568, 0.103921626, -0.0854467624, 0.0208262779),
    ],
    np.float32,
)


def gelu_forward(x, approximate="none"):
    y = empty(x.shape, x.dtype)
    _forward(np.ascontiguousarray(x).reshape(-1), y.reshape(-1), approximate == "tanh")
    return y, x, approximate


def gelu_backward(dy, x, approximate):
    dx = np.array(dy, order="C")
    y = empty(x.shape, x.dtype)
    _backward(dx.reshape(-1), np.ascontiguousarray(x).reshape(-1), y.reshape(-1), approximate == "tanh")
    return dx


@leaf
def _forward(part, parts, x, y, approximate):
    mine = slice(x.size * part // parts, x.size * (part + 1) // parts)
    activate(x[mine], y[mine], approximate)


@leaf
def _backward(part, parts, dx, x, y, approximate):
    mine = slice(x.size * part // parts, x.size * (part + 1) // parts)
    activate_back(dx[mine], x[mine], y[mine], approximate)


@helper
def activate(x, y, approximate):
    """y = gelu(x)"""
    one, minus_half = x.dtype.type(1), x.dtype.type(-0.5)
    minus_two_root, cubic = x.dtype.type(-2 * ROOT), x.dtype.type(CUBIC)
    if approximate:
        for i in range(x.size):
            a = x[i]
            y[i] = a / (one + exp(minus_two_root * (a + cubic * a * a * a)))
    else:
        for i in range(x.size):
            a = x[i]
            y[i] = a * _cdf(a, exp(minus_half * a * a))


@helper
def activate_back(dx, x, y, approximate):
    """dx *= gelu'(x), and y = gelu(x) once more, from the same exponential."""
    one, minus_half, density_at_0 = x.dtype.type(1), x.dtype.type(-0.5), x.dtype.type(DENSITY_AT_0)
    minus_two_root, cubic, three_cubic = x.dtype.type(-2 * ROOT), x.dtype.type(CUBIC), x.dtype.type(3 * CUBIC)
    if approximate:
        for i in range(x.size):
            a = x[i]
            minus_2u = minus_two_root * (a + cubic * a * a * a)
            e = exp(-abs(minus_2u))
            near = one / (one + e)  # to one, and its difference from one, of which one is the cdf
            far = e * near
            cdf = far if minus_2u > 0 else near
            y[i] = a * cdf
            # the logistic function's derivative is cdf (1 - cdf), here with respect to 2u
            dx[i] *= cdf - a * (near * far) * minus_two_root * (one + three_cubic * a * a)
    else:
        for i in range(x.size):
            a = x[i]
            e = exp(minus_half * a * a)
            cdf = _cdf(a, e)
            y[i] = a * cdf
            dx[i] *= cdf + a * density_at_0 * e


def _cdf(x, e):
    """Phi(x), given e = exp(-x^2/2)."""


@overload(_cdf)
def _cdf_of_type(x, e):
    return _cdf32 if x == numba.float32 else lambda x, e: 0.5 * math.erfc(-ROOT_HALF * x)


def _cdf32(x, e):
    one, c = np.float32(1), TAIL
    t = one / (one + np.float32(0.25) * abs(x))
    low = (((c[9] * t + c[8]) * t + c[7]) * t + c[6]) * t + c[5]
    tail = e * t * (((((low * t + c[4]) * t + c[3]) * t + c[2]) * t + c[1]) * t + c[0])
    return tail if x < 0 else one - tail
