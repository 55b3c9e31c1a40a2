"""SwiGLU in one pass over memory: `tinygrad_llm.ops.swiglu` has the definition and the derivation.

With s = 1 / (1 + e^-gate), silu(gate) = gate s, and its derivative is s + gate s (1 - s).
"""

import numpy as np

from tinygrad_llm.kernels.numba.common import exp
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty


def swiglu_forward(gate, up):
    gate, up, y = np.ascontiguousarray(gate), np.ascontiguousarray(up), empty(gate.shape, gate.dtype)
    _forward(gate.reshape(-1), up.reshape(-1), y.reshape(-1))
    return y, gate, up


def swiglu_backward(dy, gate, up):
    dgate, dup = empty(gate.shape, gate.dtype), empty(up.shape, up.dtype)
    _backward(np.ascontiguousarray(dy).reshape(-1), *(x.reshape(-1) for x in (gate, up, dgate, dup)))
    return dgate, dup


@leaf
def _forward(part, parts, gate, up, y):
    one = gate.dtype.type(1)
    mine = slice(gate.size * part // parts, gate.size * (part + 1) // parts)
    gates, ups, ys = gate[mine], up[mine], y[mine]
    for i in range(ys.size):
        ys[i] = gates[i] / (one + exp(-gates[i])) * ups[i]


@leaf
def _backward(part, parts, dy, gate, up, dgate, dup):
    one = gate.dtype.type(1)
    mine = slice(gate.size * part // parts, gate.size * (part + 1) // parts)
    dys, gates, ups, dgates, dups = dy[mine], gate[mine], up[mine], dgate[mine], dup[mine]
    for i in range(dys.size):
        s = one / (one + exp(-gates[i]))
        a = gates[i] * s
        dups[i] = dys[i] * a
        dgates[i] = dys[i] * ups[i] * (s + a * (one - s))
