"""Rotary position embedding in one pass over memory: `tinygrad_llm.ops.rotary` has the definition and the derivation.

Heads are usually a transposed view of a projection's output. The rows of x are read wherever they are, and those of y
written one after the other, as attention wants them. With pairs (x_1, x_2) and angles at both channels,

    y_1 = x_1 cos_1 - x_2 sin_1,  y_2 = x_2 cos_2 + x_1 sin_2,
    dx_1 = dy_1 cos_1 + dy_2 sin_2,  dx_2 = dy_2 cos_2 - dy_1 sin_1:

the backward is the same loop, with -sin_2 where the forward has sin_1, and -sin_1 for sin_2. Pairs of neighbors take
the page's own functions.
"""

import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty
from tinygrad_llm.ops import rotary as page
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.ops.rotary import turn


def rotary_forward(x, cos, sin, interleaved=False, *, needs):
    if interleaved or x.ndim != 4 or x.dtype != cos.dtype or not _angles_fit(x, cos, sin):
        y, *saved = page.forward(x, cos, sin, interleaved)
        return y, page.backward, (*saved, needs)
    sin_1, sin_2 = np.split(sin, 2, -1)
    return _turned(x, cos, sin_1, sin_2), _backward, (x if needs[1] or needs[2] else None, cos, sin, needs)


def rotary_backward(dy, backward, saved):
    return backward(dy, *saved)


def _backward(dy, x, cos, sin, needs):
    sin_1, sin_2 = np.split(sin, 2, -1)
    dcos = unbroadcast(dy * x, cos) if needs[1] else None
    dsin = unbroadcast(dy * turn(x, False), sin) if needs[2] else None
    return _turned(dy, cos, -sin_2, -sin_1), dcos, dsin


def _angles_fit(x, cos, sin) -> bool:
    """(T, D), or a batch of them with one for all heads."""
    batch, _, *both = x.shape
    return cos.shape == sin.shape and cos.shape in ((*both,), (batch, 1, *both))


def _turned(x, cos, sin_1, sin_2):
    """x (B, H, T, D) turned by angles whose cosines are (..., T, D) and whose sines are (..., T, D / 2)."""
    y = empty(x.shape, x.dtype)
    tokens_first = x.swapaxes(1, 2)
    memory = tokens_first if tokens_first.flags.c_contiguous else np.ascontiguousarray(x)
    strides = (x if memory is tokens_first else memory).strides[:3]
    every = cos.size // len(x) if cos.ndim == 4 else 0  # from a sequence's angles to the next one's
    angles = (np.ascontiguousarray(a).reshape(-1) for a in (cos, sin_1, sin_2))
    _turn(memory.reshape(-1), *angles, y, *(stride // x.itemsize for stride in strides), every)
    return y


@leaf
def _turn(part, parts, x, cos, sin_1, sin_2, y, batch_stride, head_stride, token_stride, every):
    batch, heads, tokens, size = y.shape
    half = size // 2
    count = batch * heads * tokens
    for row in range(count * part // parts, count * (part + 1) // parts):
        b, h, t = row // (heads * tokens), row // tokens % heads, row % tokens
        start, angle = b * batch_stride + h * head_stride + t * token_stride, b * every + t * size
        x_1, x_2 = x[start : start + half], x[start + half : start + size]
        cos_1, cos_2 = cos[angle : angle + half], cos[angle + half : angle + size]
        s_1, s_2 = sin_1[angle // 2 : angle // 2 + half], sin_2[angle // 2 : angle // 2 + half]
        ys = y[b, h, t]
        for i in range(half):
            ys[i] = x_1[i] * cos_1[i] - x_2[i] * s_1[i]
            ys[half + i] = x_2[i] * cos_2[i] + x_1[i] * s_2[i]
