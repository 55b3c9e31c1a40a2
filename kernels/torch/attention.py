"""Flash attention (Dao 2023, https://arxiv.org/abs/2307.08691): `tinygrad_llm.ops.attention` has the derivation.

PyTorch has it under two names, with other arguments: one for the CPU, and one for CUDA, which takes float16 and
bfloat16, heads of a multiple of 8 numbers and at most 256, and a causal mask for as many keys as queries.
"""

import torch

from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.torch.tensors import on_tensors
from tinygrad_llm.ops.attention import per_key_head

aten = torch.ops.aten


@on_tensors
def attention_forward(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    if attn_mask is not None or keep is not None:
        raise Unsupported("a mask, nor dropout")
    return flash_forward(q, k, v, is_causal, scale)


@on_tensors
def attention_backward(dy, saved):
    return *flash_backward(dy, saved), None


def flash_forward(q, k, v, is_causal, scale=None):
    """y, and what `flash_backward` wants: tensors. Raises Unsupported for what there is no flash attention for."""
    width = q.shape[-1]
    if not (q.numel() and k.numel()):
        raise Unsupported("no queries, nor no keys")
    if q.is_cuda and (q.element_size() != 2 or width % 8 or width > 256 or (is_causal and q.shape[2] != k.shape[2])):
        raise Unsupported(f"{q.dtype} with heads of {width} numbers, {q.shape[2]} queries and {k.shape[2]} keys")
    repeats = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(repeats, 1) if repeats > 1 else x for x in (k, v))
    q, keys, values = map(rows_contiguous, (q, keys, values))
    if q.is_cuda:
        y, lse, *state, _ = aten._scaled_dot_product_flash_attention(q, keys, values, 0.0, is_causal, scale=scale)
    else:
        y, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, keys, values, 0.0, is_causal, scale=scale)
        state = None
    return y, (k, v, q, keys, values, y, lse, state, is_causal, scale)


def rows_contiguous(x):
    """x, whose rows PyTorch's kernels take to be contiguous without a look."""
    return x if x.stride(-1) == 1 else x.contiguous()


def flash_backward(dy, saved):
    k, v, *arrays, state, is_causal, scale = saved
    dy = rows_contiguous(dy)
    if state:
        *lengths, seed, offset = state  # of the sequences; what dropout would have been drawn with
        options = *lengths, 0.0, is_causal, seed, offset
        dq, dk, dv = aten._scaled_dot_product_flash_attention_backward(dy, *arrays, *options, scale=scale)
    else:
        backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
        dq, dk, dv = backward(dy, *arrays, 0.0, is_causal, scale=scale)
    return dq, per_key_head(dk, k), per_key_head(dv, v)
