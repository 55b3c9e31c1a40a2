"""Packed attention by the loops of `attention`: `tinygrad_llm.ops.attention_qkvpacked` has the definition.

They take rows at any distance from each other, so they read the heads where they stand in qkv, write y as the next
product wants it, and all gradients into one array. Nothing is split, turned or joined.
"""

import numpy as np

from tinygrad_llm.kernels.numba.attention import Settings
from tinygrad_llm.memory import empty
from tinygrad_llm.ops import attention_qkvpacked as page
from tinygrad_llm.random import booleans


def attention_qkvpacked_forward(qkv, n_head, keep=None, dropout_p=0.0):
    (batch, length, width), keep = qkv.shape, booleans(keep, qkv)
    if width % (3 * n_head) or (keep is not None and keep.shape != (batch, n_head, length, length)):
        y, *saved = page.forward(qkv, n_head, keep, dropout_p)
        return y, page.backward, saved
    width, size = width // 3, width // 3 // n_head
    settings = Settings(qkv.dtype, (batch, n_head, n_head, length, length, size), keep, dropout_p, True, None)
    in_qkv, in_y = (3 * width * length, size, 3 * width), (width * length, size, width)
    strides, y = (in_qkv, in_qkv, in_y), empty((batch, length, width), qkv.dtype)
    flat = np.ascontiguousarray(qkv).reshape(-1)
    lse = settings.forward(*parts(flat, width), y.reshape(-1), strides)
    return y, _backward, (flat, width, lse, settings, strides)


def attention_qkvpacked_backward(dy, backward, saved):
    return backward(dy, *saved)


def _backward(dy, qkv, width, lse, settings, strides):
    dqkv = empty((*dy.shape[:2], 3 * width), dy.dtype)
    inputs, gradients = parts(qkv, width), parts(dqkv.reshape(-1), width)
    settings.backward(np.ascontiguousarray(dy).reshape(-1), *inputs, *gradients, lse, strides)
    return dqkv


def parts(flat, width: int) -> list:
    """From where query, key and value begin."""
    return [flat[i * width :] for i in range(3)]
