"""SwiGLU's gate in one pass over memory: `tinygrad_llm.ops.swiglu` has the definition and the derivation.

NumPy makes a new array for every operator of the formula; here each element is read once and written once.
"""

import numpy as np

from tinygrad_llm.kernels.numba.common import exp
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty


def swiglu_forward(gate, up):
    y = empty(gate.shape, gate.dtype)
    _forward(*(np.ascontiguousarray(x).reshape(-1) for x in (gate, up)), y.reshape(-1))
    return y, gate, up


def swiglu_backward(dy, gate, up):
    dgate, dup = empty(gate.shape, gate.dtype), empty(gate.shape, gate.dtype)
    _backward(*(np.ascontiguousarray(x).reshape(-1) for x in (dy, gate, up)), dgate.reshape(-1), dup.reshape(-1))
    return dgate, dup


@leaf
def _forward(part, parts, gate, up, y):
    one = gate.dtype.type(1)
    for i in range(y.size * part // parts, y.size * (part + 1) // parts):
        y[i] = gate[i] / (one + exp(-gate[i])) * up[i]


@leaf
def _backward(part, parts, dy, gate, up, dgate, dup):
    one = gate.dtype.type(1)
    for i in range(dy.size * part // parts, dy.size * (part + 1) // parts):
        a, d = gate[i], dy[i]
        s = one / (one + exp(-a))
        dup[i] = d * a * s
        dgate[i] = d * up[i] * s * (one + a * (one - s))
