"""Causal self-attention from one array: `tinygrad_llm.ops.attention_qkvpacked` has the definition.

Flash attention reads q, k and v where they lie. Dropout takes the page's own functions.
"""

import torch

from tinygrad_llm.kernels.torch.attention import flash_backward, flash_forward, takes
from tinygrad_llm.kernels.torch.tensors import on_tensors
from tinygrad_llm.ops import attention_qkvpacked as page
from tinygrad_llm.ops.attention_qkvpacked import heads


def attention_qkvpacked_forward(qkv, n_head, keep=None, dropout_p=0.0):
    q, k, _ = heads(qkv, n_head)
    if keep is not None or not takes(q, k, is_causal=True):
        y, *saved = page.forward(qkv, n_head, keep, dropout_p)
        return y, page.backward, saved
    y, saved = _forward(qkv, n_head)
    return y, _backward, saved


def attention_qkvpacked_backward(dy, backward, saved):
    return backward(dy, *saved)


@on_tensors
def _forward(qkv, n_head):
    q, k, v = qkv.unflatten(-1, (3, n_head, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
    y, saved = flash_forward.__wrapped__(q, k, v, True)
    return y.transpose(1, 2).flatten(2), (n_head, saved)


@on_tensors
def _backward(dy, n_head, saved):
    dy = dy.unflatten(-1, (n_head, -1)).transpose(1, 2)
    dqkv = flash_backward.__wrapped__(dy, saved)
    return torch.stack(dqkv).permute(1, 3, 0, 2, 4).flatten(2)
