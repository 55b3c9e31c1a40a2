"""Flash attention (Dao 2023, https://arxiv.org/abs/2307.08691): `tinygrad_llm.ops.attention` has the derivation.

PyTorch has it under two names, with other arguments: one for the CPU, and one for CUDA, which takes float16 and
bfloat16, heads of a multiple of 8 numbers and at most 256, and a causal mask for as many keys as queries. Other masks,
dropout, and what CUDA's does not take, are the page's own functions.
"""

import torch

from tinygrad_llm.devices import on_device
from tinygrad_llm.kernels.torch.tensors import on_tensors
from tinygrad_llm.ops import attention as page
from tinygrad_llm.ops.attention import per_key_head

aten = torch.ops.aten


def attention_forward(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    if attn_mask is not None or keep is not None or not takes(q, k, is_causal):
        y, *saved = page.forward(q, k, v, attn_mask, keep, dropout_p, is_causal, scale)
        return y, page.backward, saved
    y, saved = flash_forward(q, k, v, is_causal, scale)
    return y, flash_backward, saved


def attention_backward(dy, backward, saved, needs):
    return backward(dy, *saved, needs=needs) if backward is page.backward else (*backward(dy, saved), None)


def takes(q, k, is_causal) -> bool:
    """Whether there is flash attention for these arrays."""
    if not (q.size and k.size and q.ndim == 4):
        return False
    if not on_device(q):
        return True
    causal = not is_causal or q.shape[2] == k.shape[2]
    return q.dtype.itemsize == 2 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256 and causal


@on_tensors
def flash_forward(q, k, v, is_causal, scale=None):
    """y, and what `flash_backward` wants."""
    repeats = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(repeats, 1) if repeats > 1 else x for x in (k, v))
    if q.is_cuda:
        y, lse, *state, _ = aten._scaled_dot_product_flash_attention(q, keys, values, 0.0, is_causal, scale=scale)
    else:
        y, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, keys, values, 0.0, is_causal, scale=scale)
        state = None
    return y, (k, v, q, keys, values, y, lse, state, is_causal, scale)


@on_tensors
def flash_backward(dy, saved):
    k, v, *arrays, state, is_causal, scale = saved
    if state:
        *lengths, seed, offset = state  # of the sequences; what dropout would have been drawn with
        options = *lengths, 0.0, is_causal, seed, offset
        dq, dk, dv = aten._scaled_dot_product_flash_attention_backward(dy, *arrays, *options, scale=scale)
    else:
        backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
        dq, dk, dv = backward(dy, *arrays, 0.0, is_causal, scale=scale)
    return dq, per_key_head(dk, k), per_key_head(dv, v)
