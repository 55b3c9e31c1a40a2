"""Modules: layers, and the ladder of attentions."""

from tinygrad_llm.nn.attention import (
    CausalAttention,
    DropoutAttention,
    KVCache,
    MultiHeadAttention,
    SelfAttention,
    SplitHeads,
    StackedHeads,
    attention_without_weights,
)
from tinygrad_llm.nn.layers import GELU, Dropout, Embedding, LayerNorm, Linear, RMSNorm, Sequential
from tinygrad_llm.nn.module import Module, Parameter

__all__ = [
    "GELU",
    "CausalAttention",
    "Dropout",
    "DropoutAttention",
    "Embedding",
    "KVCache",
    "LayerNorm",
    "Linear",
    "Module",
    "MultiHeadAttention",
    "Parameter",
    "RMSNorm",
    "SelfAttention",
    "Sequential",
    "SplitHeads",
    "StackedHeads",
    "attention_without_weights",
]
