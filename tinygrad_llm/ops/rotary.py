"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864): pairs of channels turned by an angle.

    (y_1, y_2) = (x_1 cos - x_2 sin, x_2 cos + x_1 sin), or y = x cos + turn(x) sin with turn(x_1, x_2) = (-x_2, x_1).

y is linear in x, and the transpose of a quarter turn is the turn back, turn^T = -turn, so

    dx = dy cos - turn(dy sin);  dcos = dy x and dsin = dy turn(x), summed over what they were broadcast to.

A pair is channel i and i + D/2 (Llama in `transformers`), or 2i and 2i + 1 with `interleaved` (the paper, GGUF files).
Shapes: x (..., T, D); cos and sin (T, D), or anything that broadcasts, each pair's angle at both its channels.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast


def rotary_forward(x, cos, sin, interleaved=False):
    return x * cos + turn(x, interleaved) * sin, x, cos, sin, interleaved


def rotary_backward(dy, x, cos, sin, interleaved, needs):
    dx = dy * cos - turn(dy * sin, interleaved) if needs[0] else None
    dcos = unbroadcast(dy * x, cos) if needs[1] else None
    dsin = unbroadcast(dy * turn(x, interleaved), sin) if needs[2] else None
    return dx, dcos, dsin


def turn(x, interleaved):
    """Each pair (x_1, x_2) turned by a right angle: (-x_2, x_1)."""
    y = np.empty_like(x)
    if interleaved:
        y[..., 0::2], y[..., 1::2] = -x[..., 1::2], x[..., 0::2]
    else:
        half = x.shape[-1] // 2
        y[..., :half], y[..., half:] = -x[..., half:], x[..., :half]
    return y


rotary = operation(rotary_forward, rotary_backward)
