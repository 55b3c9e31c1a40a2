"""The ladder of attentions: each rung adds one idea to the one below, and equals it where that idea does nothing.

    1  attention_without_weights   every token becomes a mixture of all, by similarity
    2  SelfAttention               what is compared and what is mixed is learned
    3  CausalAttention             no token sees a later one
    4  DropoutAttention            some of the weights are dropped while training
    5  StackedHeads                several attentions side by side, each with its own weights
    6  SplitHeads                  the same from one product, whose result is split into heads
    7  MultiHeadAttention          the same through the one fused operation: the one that the models use

Shapes: x (B, T, C) for B sequences of T tokens of C numbers; H heads of D = C / H numbers.
"""

import math

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm.errors import UserError
from tinygrad_llm.nn.cache import KVCache
from tinygrad_llm.nn.layers import Dropout, Linear
from tinygrad_llm.nn.module import Module
from tinygrad_llm.tensor import Tensor


def attention_without_weights(x: Tensor) -> Tensor:
    """Rung 1: each token is replaced by the mean of all, weighted by the softmax of their dot products with it."""
    return (x @ x.mT).softmax(-1) @ x


class SelfAttention(Module):
    """Rung 2: three learned projections say what a token looks for, what it offers and what it passes on."""

    def __init__(self, d_in: int, d_out: int, bias: bool = False):
        self.query = Linear(d_in, d_out, bias)
        self.key = Linear(d_in, d_out, bias)
        self.value = Linear(d_in, d_out, bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)  # (B, T, D)
        return self.weights(q @ k.mT / math.sqrt(q.size(-1))) @ v

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)  # (B, T, T)


class CausalAttention(SelfAttention):
    """Rung 3: a score above the diagonal, of a later token, becomes -inf and its weight zero."""

    def weights(self, scores: Tensor) -> Tensor:
        later = ~np.tri(*scores.shape[-2:], dtype=bool, like=scores.data)
        return scores.masked_fill(later, -math.inf).softmax(-1)


class DropoutAttention(CausalAttention):
    """Rung 4: while training, each weight is dropped with probability `dropout`."""

    def __init__(self, d_in: int, d_out: int, dropout: float = 0.0, bias: bool = False):
        super().__init__(d_in, d_out, bias)
        self.dropout = Dropout(dropout)

    def weights(self, scores: Tensor) -> Tensor:
        return self.dropout(super().weights(scores))


class StackedHeads(Module):
    """Rung 5: H attentions of rung 4, their results side by side, and a projection that mixes them."""

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, bias: bool = False):
        self.heads = [DropoutAttention(n_embd, n_embd // n_head, dropout, bias) for _ in range(n_head)]
        self.project = Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.cat([head(x) for head in self.heads], -1))


class SplitHeads(DropoutAttention):
    """Rung 6: one projection for all the heads, whose C numbers are split into H heads of D."""

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, bias: bool = False):
        super().__init__(n_embd, n_embd, dropout, bias)
        self.n_head = n_head
        self.project = Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(p(x), self.n_head) for p in (self.query, self.key, self.value))  # (B, H, T, D)
        y = self.weights(q @ k.mT / math.sqrt(q.size(-1))) @ v
        return self.project(merge_heads(y))


class MultiHeadAttention(Module):
    """Rung 7: query, key and value from one product, and attention as one operation that never keeps the weights.

    The parameters have GPT-2's names. With a `cache`, x holds the tokens that follow those in it, and `mask` is that
    of `Cache.mask`. `bounds` are those of texts that share rows: see `attend`.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0, bias: bool = True):
        if n_embd % n_head:
            raise UserError(f"n_embd {n_embd} is not divisible by n_head {n_head}: heads share it equally")
        self.n_head = n_head
        self.dropout = dropout
        self.c_attn = Linear(n_embd, 3 * n_embd, bias)
        self.c_proj = Linear(n_embd, n_embd, bias)

    def forward(
        self,
        x: Tensor,
        cache: KVCache | None = None,
        mask: np.ndarray | None = None,
        bounds: np.ndarray | None = None,
    ) -> Tensor:
        qkv, dropout = self.c_attn(x), self.dropout if self.training else 0.0
        if cache is None and bounds is None:
            return self.c_proj(F.attention_qkvpacked(qkv, self.n_head, dropout))
        q, k, v = (split_heads(part, self.n_head) for part in qkv.split(x.size(-1), -1))  # (B, H, T, D)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H, S, D)
        return self.c_proj(attend(q, k, v, mask, bounds, dropout))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: np.ndarray | None = None,
    bounds: np.ndarray | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of T queries (B, H, T, D) to S keys and values (B, H_kv, S, D), heads merged: (B, T, H D).

    With no mask, a query sees the keys up to its own; where there is one for each key, that is the causal mask.
    `bounds` (N, 3) are the row, the start and the end of each text where several share a row: each attends to itself.
    """
    if bounds is not None:
        return merge_heads(F.attention_segments(q, k, v, bounds, dropout))
    causal = mask is None and q.size(-2) == k.size(-2)
    return merge_heads(F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True))


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """(B, T, C) -> (B, H, T, D)"""
    return x.reshape(*x.shape[:-1], n_head, -1).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, C)"""
    x = x.transpose(-3, -2)
    return x.reshape(*x.shape[:-2], -1)
