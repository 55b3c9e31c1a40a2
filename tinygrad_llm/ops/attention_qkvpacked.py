"""Causal self-attention from one array: query, key and value of every head side by side, as one product makes them.

    qkv = [q, k, v], each with H heads side by side;  y = attention(q, k, v), its heads side by side again.

To split, to turn (B, T, H, D) into (B, H, T, D), and to join is to look at the same numbers in another order, so the
gradients of q, k and v are parts of dqkv, and the rest is `attention`'s derivation.

Shapes: qkv (B, T, 3 C), C = H D; keep None, booleans (B, H, T, T) or a `random.Mask`, for dropout; y (B, T, C).
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.attention import attention_backward, attention_forward


def attention_qkvpacked_forward(qkv, n_head, keep=None, dropout_p=0.0):
    y, *saved = attention_forward(*heads(qkv, n_head), None, keep, dropout_p, is_causal=True)
    return y.swapaxes(1, 2).reshape(*qkv.shape[:2], -1), qkv, n_head, saved


def attention_qkvpacked_backward(dy, qkv, n_head, saved):
    dy = dy.reshape(*dy.shape[:2], n_head, -1).swapaxes(1, 2)  # (B, H, T, D)
    dq, dk, dv, _ = attention_backward(dy, *saved, needs=(True, True, True, False))
    dqkv = np.empty_like(qkv)
    for part, gradient in zip(heads(dqkv, n_head), (dq, dk, dv), strict=True):
        part[...] = gradient
    return dqkv


def heads(qkv, n_head):
    """Query, key and value as views (B, H, T, D)."""
    batch, length, width = qkv.shape
    return qkv.reshape(batch, length, 3, n_head, width // 3 // n_head).transpose(2, 0, 3, 1, 4)


attention_qkvpacked = operation(attention_qkvpacked_forward, attention_qkvpacked_backward)
