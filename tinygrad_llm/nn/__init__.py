"""Modules: layers, and the ladder of attentions."""

from tinygrad_llm.nn.attention import (
    CausalAttention,
    DropoutAttention,
    MultiHeadAttention,
    SelfAttention,
    SplitHeads,
    StackedHeads,
    attend,
    attention_without_weights,
    merge_heads,
    split_heads,
)
from tinygrad_llm.nn.cache import Cache, KVCache
from tinygrad_llm.nn.layers import GELU, Dropout, Embedding, LayerNorm, Linear, RMSNorm, Sequential, add_norm
from tinygrad_llm.nn.lora import LoRAConfig, LoRALinear, add_lora, lora_parameters, merge, unmerge
from tinygrad_llm.nn.module import Module, Parameter, initial, meta
from tinygrad_llm.nn.quantized import QuantizedEmbedding, QuantizedLinear, use_quantized

__all__ = [
    "GELU",
    "Cache",
    "CausalAttention",
    "Dropout",
    "DropoutAttention",
    "Embedding",
    "KVCache",
    "LayerNorm",
    "Linear",
    "LoRAConfig",
    "LoRALinear",
    "Module",
    "MultiHeadAttention",
    "Parameter",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "RMSNorm",
    "SelfAttention",
    "Sequential",
    "SplitHeads",
    "StackedHeads",
    "add_lora",
    "add_norm",
    "attend",
    "attention_without_weights",
    "initial",
    "lora_parameters",
    "merge",
    "merge_heads",
    "meta",
    "split_heads",
    "unmerge",
    "use_quantized",
]
