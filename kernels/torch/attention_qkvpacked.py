"""Causal self-attention from one array: `tinygrad_llm.ops.attention_qkvpacked` has the definition.

Flash attention reads q, k and v where they lie.
"""

import torch

from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.torch.attention import flash_backward, flash_forward
from tinygrad_llm.kernels.torch.tensors import on_tensors


@on_tensors
def attention_qkvpacked_forward(qkv, n_head, keep=None, dropout_p=0.0):
    if keep is not None:
        raise Unsupported("dropout")
    q, k, v = qkv.unflatten(-1, (3, n_head, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
    y, saved = flash_forward(q, k, v, True)
    return y.transpose(1, 2).flatten(2), (n_head, saved)


@on_tensors
def attention_qkvpacked_backward(dy, saved):
    n_head, saved = saved
    dy = dy.unflatten(-1, (n_head, -1)).transpose(1, 2)
    dqkv = flash_backward(dy, saved)
    return torch.stack(dqkv).permute(1, 3, 0, 2, 4).flatten(2)
