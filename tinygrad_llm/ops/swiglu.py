"""The gate of a SwiGLU feed-forward part (Shazeer 2020, https://arxiv.org/abs/2002.05202): y = silu(gate) up.

With a = silu(gate):

    dup = dy a;  da = dy up, and dgate is what silu makes of da.

It is one operation for what it does not keep: a is as large as the two inputs, and cheap to make again from gate.

Shapes: gate, up and y alike.
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.silu import silu_backward, silu_forward


def swiglu_forward(gate, up):
    return silu_forward(gate)[0] * up, gate, up


def swiglu_backward(dy, gate, up):
    a, *saved = silu_forward(gate)
    # y = a up
    dup = dy * a
    # a = silu(gate)
    dgate = silu_backward(dy * up, *saved)
    return dgate, dup


swiglu = operation(swiglu_forward, swiglu_backward)
