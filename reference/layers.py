"""The layers' operations in PyTorch."""

import numpy as np
import torch
import torch.nn.functional as F

from tinygrad_llm.reference.cases import booleans, case, integers, normal, oracle

SOFTMAX = (
    case(normal(7, 33)),
    case(normal(2, 3, 97), dim=1),
    case(normal(3, 1023, scale=30.0)),
    case(normal(5, 1)),
    case(normal(2, 3, 7)),
)


@oracle(*SOFTMAX)
def softmax(x, dim=-1):
    return F.softmax(x, dim)


@oracle(*SOFTMAX)
def log_softmax(x, dim=-1):
    return F.log_softmax(x, dim)


@oracle(
    case(normal(7, 33), normal(3, 33), normal(3)),
    case(normal(2, 3, 97), normal(33, 97), None),
    case(normal(33), normal(7, 33), normal(7)),
    case(normal(1, 1), normal(1, 1), normal(1)),
    case(normal(97, 1023, scale=0.1), normal(33, 1023, scale=0.1), normal(33)),
    case(normal(1033, 1), normal(1, 1), normal(1)),
    case(normal(2, 133), normal(3, 133), normal(3)),
    case(normal(4, 133), normal(9, 133), normal(9)),
    case(normal(8, 3), normal(3, 3), None),
    case(normal(127), normal(3, 127), None),
)
def linear(x, weight, bias=None):
    return F.linear(x, weight, bias)


def _blocks(*shape: int, scales: int):
    """Rows of blocks, random but for their first halves of numbers, d and m: what is not finite is not compared."""

    def make(random):
        blocks = random.integers(0, 256, shape, dtype=np.uint8)
        blocks[..., : 2 * scales] = random.normal(size=(*shape[:-1], scales)).astype(np.float16).view(np.uint8)
        return blocks.reshape(shape[0], -1)

    return make


@oracle(
    case(normal(1, 64), _blocks(33, 2, 34, scales=1), normal(33), type="Q8_0"),
    case(normal(64), _blocks(7, 2, 18, scales=1), None, type="Q4_0"),
    case(normal(3, 7, 96), _blocks(97, 3, 20, scales=2), normal(97), type="Q4_1"),
    case(normal(97, 544), _blocks(3, 17, 34, scales=1), None, type="Q8_0"),
    case(normal(33, 32), _blocks(1, 1, 18, scales=1), normal(1), type="Q4_0"),
    case(normal(2, 1024), _blocks(7, 32, 20, scales=2), normal(7), type="Q4_1"),
    case(normal(1, 96), _blocks(7, 3, 20, scales=2), None, type="Q4_1"),
)
def quantized_linear(x, blocks, bias=None, type="Q8_0"):
    return F.linear(x, _dequantized(blocks, type, x.dtype), bias)


@oracle(
    case(normal(7, 33), normal(97, 33), normal(97), normal(3, 33), normal(97, 3), 0.5),
    case(normal(2, 3, 97), normal(1, 97), None, normal(8, 97), normal(1, 8), keep=booleans(2, 3, 97), dropout_p=0.25),
    case(normal(33), normal(7, 33), normal(7), normal(1, 33), normal(7, 1), 2.0),
    case(normal(3, 33, 64), _blocks(97, 2, 20, scales=2), normal(97), normal(7, 64), normal(97, 7), 0.5, type="Q4_1"),
    case(normal(3, 32), _blocks(7, 1, 34, scales=1), None, normal(1, 32), normal(7, 1), type="Q8_0"),
)
def lora_linear(x, weight, bias, a, b, scale=1.0, keep=None, dropout_p=0.0, type=None):
    weight = weight if type is None else _dequantized(weight, type, x.dtype)
    dropped = x if keep is None else x * keep / (1 - dropout_p)
    return F.linear(x, weight, bias) + scale * F.linear(F.linear(dropped, a), b)


def _dequantized(blocks, type, dtype):
    scales, size = {"Q8_0": (1, 34), "Q4_0": (1, 18), "Q4_1": (2, 20)}[type]
    head, q = blocks.unflatten(1, (-1, size)).tensor_split([2 * scales], dim=-1)  # (out, blocks, bytes)
    d, *m = head.contiguous().view(torch.float16).to(dtype).split(1, dim=-1)
    if type == "Q8_0":
        weight = d * q.contiguous().view(torch.int8)
    else:
        weight = d * (torch.cat([q % 16, q // 16], -1).to(dtype) - (8 if type == "Q4_0" else 0))
    return (weight + m[0] if m else weight).flatten(1)


@oracle(
    case(normal(7, 33), integers(3, 97, high=7)),  # every token repeats
    case(normal(97, 3), integers(5, high=97), padding_idx=0),
    case(normal(3, 7), integers(2, 3, 33, high=3), padding_idx=-1),
    case(normal(1, 1), integers(1, high=1)),
    case(normal(5, 263), integers(33, high=5)),
    case(normal(3, 2), np.array([2, 0, 2, 0, 2])),
)
def embedding(weight, ids, padding_idx=None):
    return F.embedding(ids, weight, padding_idx)


def _far_from_zero(random):
    """Numbers around 4096 whose mean float32 holds exactly: the mean of their squares less its square has no digits."""
    return np.round(64 * normal(7, 32)(random)) / 64 + 4096


@oracle(
    case(normal(7, 33), normal(33), normal(33)),
    case(normal(2, 3, 97), normal(97), None, eps=1e-3),
    case(normal(3, 1023), None, None),
    case(normal(1, 3), normal(3), normal(3)),
    case(normal(131, 9), normal(9), normal(9)),
    case(_far_from_zero, normal(32), normal(32)),
)
def layernorm(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


@oracle(
    case(normal(7, 33), normal(33)),
    case(normal(2, 3, 97), normal(97), eps=1e-3),
    case(normal(3, 1023), None),
    case(normal(1, 3), normal(3)),
    case(normal(131, 9), normal(9)),
)
def rmsnorm(x, weight=None, eps=1e-6):
    return F.rms_norm(x, x.shape[-1:], weight, eps)


@oracle(
    case(normal(7, 33, scale=3.0)),
    case(normal(2, 3, 97, scale=3.0), approximate="tanh"),
    case(normal(1023, scale=8.0), approximate="tanh"),
    case(normal(1)),
    case(np.array([-30.0, -9.0, 0.0, 9.0, 30.0])),
)
def gelu(x, approximate="none"):
    return F.gelu(x, approximate=approximate)


@oracle(
    case(normal(7, 33), booleans(7, 33, share=0.75), 0.25),
    case(normal(2, 3, 97), booleans(2, 3, 97), 0.5),
    case(normal(3), booleans(3, share=0.0), 1.0),
)
def dropout(x, keep, p):
    return torch.where(keep, x / (1 - p) if p < 1 else x * 0, 0.0)


@oracle(
    case(normal(2, 3, 7, 32), normal(7, 32), normal(7, 32)),
    case(normal(2, 2, 4, 10), normal(2, 1, 4, 10), normal(2, 1, 4, 10)),
    case(normal(2, 1, 33, 6), normal(33, 6), normal(33, 6), interleaved=True),
    case(normal(2, 1, 33, 6), normal(2, 1, 33, 6), normal(33, 6)),
    case(normal(3, 7, 10), normal(7, 10), normal(7, 10)),
    case(normal(3, 7, 10), normal(10), normal(10)),
    case(normal(2, 2, 7, 4), normal(2, 2, 7, 4), normal(2, 2, 7, 4)),
    case(normal(2, 3, 7, 4), normal(1, 1, 7, 4), normal(1, 1, 7, 4)),
    case(normal(1, 2, 33, 34), normal(33, 34), normal(33, 34)),
    case(normal(1, 1, 32, 32), normal(32, 32), normal(32, 32)),  # a block's threads exactly
)
def rotary(x, cos, sin, interleaved=False):
    if interleaved:
        turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
    else:
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
    return x * cos + turned * sin


def _heads(heads, kv_heads, queries, keys, width, batch=2):
    return normal(batch, heads, queries, width), *[normal(batch, kv_heads, keys, width)] * 2


def _far(place: int):
    """Of (1, 1, 7, 4) the first row -128 or 128, so that q[0] k[0] is far below any finite mask."""

    def make(random):
        x = normal(1, 1, 7, 4)(random)
        x[..., 0, :] = 128 * place
        return x

    return make


def _lower_triangle(random):
    return np.tri(33, 97, dtype=bool)


@oracle(
    case(*_heads(3, 3, 7, 7, 33)),
    case(*_heads(3, 3, 97, 97, 16), is_causal=True),
    case(*_heads(6, 2, 33, 33, 8, batch=3), is_causal=True, scale=0.3),
    case(*_heads(2, 1, 7, 33, 8), booleans(2, 1, 7, 33, share=0.8)),
    case(*_heads(1, 1, 33, 97, 8), _lower_triangle),
    case(*_heads(3, 3, 7, 33, 8), normal(7, 33)),
    case(*_heads(3, 3, 33, 33, 8), None, booleans(2, 3, 33, 33, share=0.75), 0.25, is_causal=True),
    case(*_heads(1, 1, 1, 1, 1, batch=1), is_causal=True),
    case(*_heads(1, 1, 3, 7, 3, batch=1), np.zeros((3, 7), bool)),  # every row masked
    case(_far(1), _far(-1), normal(1, 1, 7, 4), is_causal=True),
    case(*_heads(4, 2, 2, 4, 4, batch=4)),  # as many as there are heads of something else
    case(*_heads(4, 2, 3, 3, 2)),
    case(*_heads(2, 2, 7, 33, 8), is_causal=True),
    case(*_heads(2, 2, 33, 7, 8), is_causal=True),
    case(*_heads(2, 1, 7, 97, 8)),
)
def attention(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    if keep is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=True)
    # With dropout PyTorch draws its own mask, so the same formula stands here with ours.
    s = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        s = s.masked_fill(~torch.ones_like(s, dtype=torch.bool).tril(), -torch.inf)
    return (F.softmax(s, -1) * keep / (1 - dropout_p)) @ v


@oracle(
    case(*_heads(3, 3, 7, 7, 33), np.array([[0, 0, 7], [1, 0, 3], [1, 3, 7]])),
    case(*_heads(6, 2, 97, 97, 8), np.array([[1, 33, 97], [0, 0, 1], [0, 1, 97], [1, 0, 33]])),
    case(*_heads(2, 1, 33, 33, 16), np.array([[0, 0, 33], [1, 0, 7], [1, 7, 33]]), booleans(2, 2, 33, 33), 0.5),
)
def attention_segments(q, k, v, bounds, keep=None, dropout_p=0.0):
    """By a mask, in texts that leave no token out."""
    allowed = torch.zeros(len(q), 1, q.shape[-2], q.shape[-2], dtype=torch.bool)
    for b, start, end in bounds:
        allowed[b, 0, start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    p = F.softmax((q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf), -1)
    return (p if keep is None else p * keep / (1 - dropout_p)) @ v


@oracle(
    case(normal(2, 7, 99), n_head=3),
    case(normal(1, 97, 96), n_head=1),
    case(normal(3, 33, 3 * 128), n_head=4),
    case(normal(2, 33, 48), 2, booleans(2, 2, 33, 33, share=0.75), 0.25),
    case(normal(1, 1, 3), n_head=1),
)
def attention_qkvpacked(qkv, n_head, keep=None, dropout_p=0.0):
    q, k, v = qkv.unflatten(-1, (3, n_head, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
    return attention(q, k, v, None, keep, dropout_p, is_causal=True).transpose(1, 2).flatten(2)


@oracle(
    case(normal(7, 33), normal(97, 33, scale=0.2), normal(97), normal(33, 97, scale=0.2), normal(33)),
    case(normal(2, 3, 33), normal(7, 33, scale=0.2), None, normal(33, 7, scale=0.2), None, approximate="tanh"),
    case(normal(1, 1), normal(3, 1), normal(3), normal(1, 3), None),
    case(normal(1033, 1), normal(1, 1), normal(1), normal(1, 1), None),
    case(normal(2, 3), normal(133, 3), normal(133), normal(1, 133), None),
    case(normal(33, 3), normal(7, 3), normal(7), normal(3, 7), normal(3)),  # more rows than columns
)
def mlp(x, fc_weight, fc_bias, proj_weight, proj_bias, approximate="none"):
    h = F.gelu(F.linear(x, fc_weight, fc_bias), approximate=approximate)
    return F.linear(h, proj_weight, proj_bias)


@oracle(
    case(normal(7, 33, scale=3.0), normal(7, 33)),
    case(normal(2, 3, 97, scale=3.0), normal(2, 3, 97)),
    case(normal(1), normal(1)),
    case(np.array([-30.0, -9.0, 0.0, 9.0, 30.0]), np.array([2.0, -1.0, 3.0, 0.0, 0.5])),
)
def swiglu(gate, up):
    return F.silu(gate) * up
