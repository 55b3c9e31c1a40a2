"""Attention of texts that share a row, by the kernel for one: `tinygrad_llm.ops.attention_segments` has the
definition."""

import numpy as np

from tinygrad_llm.kernels.numba.attention import attention_backward, attention_forward
from tinygrad_llm.memory import zeros
from tinygrad_llm.random import booleans


def attention_segments_forward(q, k, v, bounds, keep=None, dropout_p=0.0):
    y, keep, saved = zeros(q.shape, q.dtype), booleans(keep, q), []
    for b, start, end in bounds.tolist():
        text = np.s_[b : b + 1, :, start:end]
        kept = None if keep is None else keep[*text, start:end]
        y[text], *of_text = attention_forward(q[text], k[text], v[text], None, kept, dropout_p, is_causal=True)
        saved.append((text, of_text))
    return y, q.shape, k.shape, saved


def attention_segments_backward(dy, q_shape, k_shape, saved):
    dq, dk, dv = (zeros(shape, dy.dtype) for shape in (q_shape, k_shape, k_shape))
    for text, of_text in saved:
        dq[text], dk[text], dv[text] = attention_backward(dy[text], *of_text, needs=(True, True, True, False))[:3]
    return dq, dk, dv
