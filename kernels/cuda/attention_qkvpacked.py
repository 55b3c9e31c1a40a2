"""Packed attention by the kernels of `attention`: `tinygrad_llm.ops.attention_qkvpacked` has the definition.

They read the heads where they stand in qkv, write y as the next product wants it, and all gradients into one array.
"""

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.attention import Settings, by_page, declined
from tinygrad_llm.ops import attention_qkvpacked as page
from tinygrad_llm.ops.attention_qkvpacked import heads


def attention_qkvpacked_forward(qkv, n_head, keep=None, dropout_p=0.0):
    qkv = cupy().ascontiguousarray(qkv)
    q, k, v = heads(qkv, n_head)
    if reason := declined(q, k, v):
        return by_page(page, reason, qkv, n_head, keep, dropout_p)
    y = cupy().empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
    settings = Settings.of(q, k, keep, dropout_p, True, None)
    lse = settings.forward(q, k, v, split(y, n_head))
    return y, _backward, (qkv, n_head, y, lse, settings)


def attention_qkvpacked_backward(dy, backward, saved):
    return backward(dy, *saved)


def _backward(dy, qkv, n_head, y, lse, settings):
    dqkv = cupy().empty_like(qkv)
    dy = split(cupy().ascontiguousarray(dy.astype(qkv.dtype, copy=False)), n_head)
    settings.backward(dy, *heads(qkv, n_head), split(y, n_head), lse, *heads(dqkv, n_head))
    return dqkv


def split(y, n_head):
    """(B, T, C) as a view (B, H, T, D)."""
    return y.reshape(*y.shape[:2], n_head, -1).swapaxes(1, 2)
