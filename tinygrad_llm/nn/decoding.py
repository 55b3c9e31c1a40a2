"""Decoding in one step: a kernel for all blocks, where there is one, takes the place of their modules.

With one new token a sequence, Python's way through the modules takes longer than the arithmetic. A kernel set may have
`decoding.Steps`, which does it all at once; the modules remain the definition, and what runs without it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd import is_grad_enabled, watched
from tinygrad_llm.nn.cache import Cache
from tinygrad_llm.nn.layers import LayerNorm, RMSNorm
from tinygrad_llm.nn.lora import LoRALinear
from tinygrad_llm.nn.module import Module
from tinygrad_llm.ops.quantized_linear import BLOCK, BYTES
from tinygrad_llm.quantization import Quantized
from tinygrad_llm.tensor import Tensor

Norm = tuple[np.ndarray, np.ndarray, np.floating, bool]
"""Weight (C,), bias (C,) or of no size, eps, and whether it centers."""
Projection = tuple[np.ndarray, int, np.ndarray]
"""The bytes of a matrix (out, in); how many of them are a block, 0 where it is not quantized; bias (out,) or ()."""


class Arrays(NamedTuple):
    """A transformer block's arrays: x + out(attention(q, k, v of norm_1(x))), then the same with gate, up and down.

    Where `k` is of no size, `q` makes queries, keys and values; where `up` is, the gate's result goes through GELU.
    """

    n_head: int
    width: int
    norm_1: Norm
    norm_2: Norm
    q: Projection
    k: Projection
    v: Projection
    out: Projection
    gate: Projection
    up: Projection
    down: Projection
    gelu_tanh: bool = False


def steps(x: Tensor, blocks: list[Module], cache: Cache | None, cos=(), sin=()) -> Tensor | None:
    """x (B, 1, C), the next token of each sequence, through all blocks; None where their modules have to do it: with no
    kernel, with several tokens, for gradients, and for widths that blocks of quantized numbers do not divide.

    cos and sin (..., D) are those of the rotations of each sequence, or of all; none where there are no rotations.
    """
    if cache is None or x.size(-2) != 1 or is_grad_enabled() or blocks[0].training:
        return None
    kernel = kernels.find("decoding", x.data)
    if kernel is None or cache.layers[0].keys.dtype != x.dtype:
        return None
    if cache.steps is None:
        blocks = _suitable(blocks, x.size(-1), cache.layers[0].keys.shape[-1])
        cache.steps = blocks and kernel.Steps(blocks, cache.layers, len(x), x.size(-1), len(cos) > 0)
    if not cache.steps:
        return None
    padding = 0 if cache.padding is None else cache.padding
    angles = np.array([cos, sin], x.dtype).reshape(2, -1)
    (y,) = watched("forward", "decoding", cache.steps, [x.data[:, 0], angles, cache.length, padding], {})
    for layer in cache.layers:
        layer.length += 1
    return Tensor(y[:, None])


def _suitable(blocks: list[Module], width: int, head_dim: int) -> list[Arrays]:
    """The blocks' arrays, or none where a kernel cannot take them. A cache keeps them: it is of their weights."""
    if any(isinstance(layer, LoRALinear) for block in blocks for layer in _layers(block)):
        return []
    arrays = [block.arrays() for block in blocks]
    sizes = width, arrays[0].width, arrays[0].n_head * head_dim
    return [] if any(size % BLOCK for size in sizes) else arrays


def _layers(block: Module) -> Iterator[Module]:
    """Those of a block's parts."""
    for _, part in block.named_children():
        yield from (layer for _, layer in part.named_children())


def norm(module: LayerNorm | RMSNorm) -> Norm:
    weight, bias = module.weight.data, getattr(module, "bias", None)
    eps = weight.dtype.type(module.eps)
    return weight, weight[:0] if bias is None else bias.data, eps, isinstance(module, LayerNorm)


def projection(module: Module | None, like: np.ndarray) -> Projection:
    """A Linear or a QuantizedLinear; None makes one of no size."""
    if module is None:
        return like[:0].view(np.uint8), 0, like[:0]
    weight, bias = module.weight, like[:0] if module.bias is None else module.bias.data
    if isinstance(weight, Quantized):
        return weight.blocks.reshape(-1), BYTES[weight.type], bias
    return weight.data.reshape(-1).view(np.uint8), 0, bias
