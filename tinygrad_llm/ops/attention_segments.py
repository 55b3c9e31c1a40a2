"""Causal self-attention of several texts that share a row, each apart from the others.

For the tokens start … end - 1 of row b, a text:  y = attention(q, k, v)  of these tokens alone.

What one text is has no part in another's y, so the derivation is `attention`'s, text by text, and short texts cost what
they would cost in rows of their own: no scores are made between two of them. A token in no text has y = 0.

Shapes: q (B, H, T, D); k and v (B, H_kv, T, D); bounds (N, 3), integers: b, start and end of each text, which do not
overlap; keep None, booleans (B, H, T, T) or the `random.Mask` that they are made of; y (B, H, T, D).
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.attention import attention_backward, attention_forward
from tinygrad_llm.random import booleans


def attention_segments_forward(q, k, v, bounds, keep=None, dropout_p=0.0):
    y, keep, saved = np.zeros_like(q), booleans(keep, q), []
    for b, start, end in bounds.tolist():
        text = np.s_[b : b + 1, :, start:end]
        kept = None if keep is None else keep[*text, start:end]
        y[text], *of_text = attention_forward(q[text], k[text], v[text], None, kept, dropout_p, is_causal=True)
        saved.append((text, of_text))
    return y, q, k, saved


def attention_segments_backward(dy, q, k, saved):
    dq, dk, dv = (np.zeros(x.shape, dy.dtype, like=dy) for x in (q, k, k))
    for text, of_text in saved:
        dq[text], dk[text], dv[text], _ = attention_backward(dy[text], *of_text, needs=(True, True, True, False))
    return dq, dk, dv


attention_segments = operation(attention_segments_forward, attention_segments_backward)
