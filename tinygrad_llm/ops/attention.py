"""Scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    s = scale q k^T + m,  p = softmax(s),  y = p v,

where the mask m is added. Derivation, line by line backwards:

    y = p v:              dv = p^T dy,  dp = dy v^T
    p = softmax(s):       ds = p (dp - sum_j dp_j p_j), a row at a time
    s = scale q k^T + m:  dq = scale ds k,  dk = scale ds^T q,  dm = ds, summed over what m was broadcast to

A position that the mask forbids has s = -inf, hence p = 0 and ds = 0 exactly: a large negative number instead would
let a little of the future through. A row with nothing allowed attends to nothing: p = 0 and y = 0.
With dropout, the p that meets v is p keep / (1 - dropout_p), and dp is what passes back through that.
With grouped heads (Ainslie et al. 2023), each head of k and v serves H / H_kv heads of q, and sums their gradients.

Shapes: q (B, H, T, D); k and v (B, H_kv, S, D), H a multiple of H_kv; attn_mask None, booleans (true: may attend) or
numbers to add, broadcasting to (B, H, T, S); keep None, booleans (B, H, T, S) or the `random.Mask`
that they are made of; y (B, H, T, D). `is_causal` lets position t attend to 0 … t. `scale` is 1 / sqrt(D) by default.
"""

import math

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.amax import largest
from tinygrad_llm.ops.broadcasting import unbroadcast
from tinygrad_llm.random import booleans


def attention_forward(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    keep = booleans(keep, q)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    keys, values = per_query_head(k, q), per_query_head(v, q)
    s = scale * (q @ keys.swapaxes(-1, -2))  # (B, H, T, S)
    if is_causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool, like=s), s, -np.inf)
    if attn_mask is not None:
        s = np.where(attn_mask, s, -np.inf) if attn_mask.dtype == bool else s + attn_mask
    m = largest(s, -1)
    e = np.exp(s - np.where(np.isneginf(m), 0, m))
    total = e.sum(axis=-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    return _drop(p, keep, dropout_p) @ values, q, k, v, attn_mask, p, keep, dropout_p, scale


def attention_backward(dy, q, k, v, attn_mask, p, keep, dropout_p, scale, needs):
    keys, values = per_query_head(k, q), per_query_head(v, q)
    # y = drop(p) v
    dv = _drop(p, keep, dropout_p).swapaxes(-1, -2) @ dy
    dp = _drop(dy @ values.swapaxes(-1, -2), keep, dropout_p)
    # p = softmax(s)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    # s = scale q k^T + m
    dq = scale * (ds @ keys)
    dk = scale * (ds.swapaxes(-1, -2) @ q)
    dmask = unbroadcast(ds, attn_mask) if needs[3] else None
    return dq, per_key_head(dk, k), per_key_head(dv, v), dmask


def per_query_head(k, q):
    """k or v with each head repeated for the heads of q that it serves."""
    return k if k.shape[-3] == q.shape[-3] else np.repeat(k, q.shape[-3] // k.shape[-3], axis=-3)


def per_key_head(dk, k):
    """The gradient of k or v, summed over the heads of q that each of its heads served."""
    if dk.shape == k.shape:
        return dk
    return dk.reshape(*k.shape[:-2], -1, *k.shape[-2:]).sum(axis=-3)


def _drop(p, keep, dropout_p):
    return p if keep is None else np.where(keep, p / (1 - dropout_p), 0)


attention = operation(attention_forward, attention_backward)
