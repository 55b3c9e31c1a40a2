"""Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) and its family: Llama 2 and 3, TinyLlama, SmolLM2 and
Qwen2.

Against GPT-2: the norm divides by the root mean square and does not center; positions are rotations of queries and
keys; several heads of queries share one of keys and values; the feed-forward part is gated; there are no biases, but
for Qwen2's queries, keys and values. Parameters have the names of transformers' LlamaForCausalLM without "model.".

Shapes: B sequences of T tokens of C = n_embd numbers; H = n_head heads of D = head_dim; a vocabulary of V.
"""

import math
from dataclasses import dataclass

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.nn import Cache, Embedding, KVCache, Linear, Module, RMSNorm, add_norm, attend, decoding, split_heads
from tinygrad_llm.nn.rope import check_rotations, rotation
from tinygrad_llm.tensor import Tensor


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama.

    Args:
        vocab_size: how many different tokens there are
        block_size: the longest sequence, in tokens
        n_layer: transformer blocks
        n_head: attention heads in a block
        n_kv_head: heads of keys and values, each of which serves n_head / n_kv_head of the queries'; 0 for n_head
        n_embd: width: how many numbers stand for a token
        intermediate_size: width of the feed-forward part
        head_dim: how many numbers a head has; 0 for n_embd / n_head
        norm_eps: what the norms add to the mean square
        rope_theta: the base of the rotations' frequencies
        rope_scaling: how they are slowed down for longer sequences: see `nn.rope`; its keys are config.json's
        attention_bias: whether queries, keys and values have biases, as Qwen2's do
        attention_output_bias: whether the attention's last projection has one
        mlp_bias: whether the feed-forward part has biases
        tie_weights: whether the head is the token embedding
    """

    vocab_size: int = 32000
    block_size: int = 2048
    n_layer: int = 22
    n_head: int = 32
    n_kv_head: int = 0
    n_embd: int = 2048
    intermediate_size: int = 5632
    head_dim: int = 0
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_weights: bool = False

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "intermediate_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.head_dim and self.n_embd % self.n_head:
            raise UserError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: give head_dim")
        for name, default in (("n_kv_head", self.n_head), ("head_dim", self.n_embd // self.n_head)):
            object.__setattr__(self, name, getattr(self, name) or default)
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.n_head % self.n_kv_head:
            raise UserError(f"n_head {self.n_head} is not divisible by n_kv_head {self.n_kv_head}: groups are equal")
        if self.head_dim % 2:
            raise UserError(f"head_dim {self.head_dim} is odd: the rotary embedding turns pairs")
        if not (0 <= self.norm_eps < math.inf and 1 < self.rope_theta < math.inf):
            raise UserError(
                f"norm_eps must not be negative and rope_theta above 1, not {self.norm_eps} and {self.rope_theta}"
            )
        check_rotations(self.rope_theta, self.head_dim, self.rope_scaling)


_smollm2 = {"vocab_size": 49152, "block_size": 8192, "rope_theta": 100000.0, "tie_weights": True}

LLAMA_PRESETS: dict[str, dict] = {
    "smollm2-135m": {"n_layer": 30, "n_head": 9, "n_kv_head": 3, "n_embd": 576, "intermediate_size": 1536, **_smollm2},
    "smollm2-360m": {"n_layer": 32, "n_head": 15, "n_kv_head": 5, "n_embd": 960, "intermediate_size": 2560, **_smollm2},
    "tinyllama-1.1b": {"n_kv_head": 4},
}


class LlamaAttention(Module):
    """Causal self-attention of rotated queries and keys, whose heads may be fewer than the queries'."""

    def __init__(self, config: LlamaConfig):
        c = config
        self.n_head, self.n_kv_head = c.n_head, c.n_kv_head
        self.q_proj = Linear(c.n_embd, c.n_head * c.head_dim, c.attention_bias)
        self.k_proj = Linear(c.n_embd, c.n_kv_head * c.head_dim, c.attention_bias)
        self.v_proj = Linear(c.n_embd, c.n_kv_head * c.head_dim, c.attention_bias)
        self.o_proj = Linear(c.n_head * c.head_dim, c.n_embd, c.attention_output_bias)

    def forward(
        self,
        x: Tensor,
        cos: np.ndarray,
        sin: np.ndarray,
        cache: KVCache | None = None,
        mask: np.ndarray | None = None,
        bounds: np.ndarray | None = None,
    ) -> Tensor:
        q = ops.rotary(split_heads(self.q_proj(x), self.n_head), cos, sin)  # (B, H, T, D)
        k = ops.rotary(split_heads(self.k_proj(x), self.n_kv_head), cos, sin)  # (B, H_kv, T, D)
        v = split_heads(self.v_proj(x), self.n_kv_head)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H_kv, S, D)
        return self.o_proj(attend(q, k, v, mask, bounds))


class LlamaMLP(Module):
    """The feed-forward part of a block: one projection gates another."""

    def __init__(self, config: LlamaConfig):
        self.gate_proj = Linear(config.n_embd, config.intermediate_size, config.mlp_bias)
        self.up_proj = Linear(config.n_embd, config.intermediate_size, config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.n_embd, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))


class LlamaBlock(Module):
    """A transformer block: attention, then the feed-forward part, each after a norm and added to what came in."""

    def __init__(self, config: LlamaConfig):
        self.input_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.self_attn = LlamaAttention(config)
        self.post_attention_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(self, x: Tensor, *attention) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), *attention)
        x, normed = add_norm(x, attended, self.post_attention_layernorm)
        return x + self.mlp(normed)

    def arrays(self) -> decoding.Arrays:
        """What a kernel for decoding computes with."""
        a, m, x = self.self_attn, self.mlp, self.input_layernorm.weight.data
        norms = (decoding.norm(layer) for layer in (self.input_layernorm, self.post_attention_layernorm))
        layers = a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj
        width = m.gate_proj.weight.shape[0]
        return decoding.Arrays(a.n_head, width, *norms, *(decoding.projection(layer, x) for layer in layers))


class Llama(LanguageModel):
    """A Llama, initialized as the GPT: see `LanguageModel.initialize`."""

    def __init__(self, config: LlamaConfig):
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.n_embd)
        self.layers = [LlamaBlock(config) for _ in range(config.n_layer)]
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = None if config.tie_weights else Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialize(("o_proj.weight", "down_proj.weight"))

    @property
    def embedding(self) -> Embedding:
        return self.embed_tokens

    @property
    def blocks(self) -> list[Module]:
        return self.layers

    @property
    def final_norm(self) -> Module:
        return self.norm

    def hidden(self, ids, cache: Cache | None = None, segments=None) -> Tensor:
        c = self.config
        positions, mask, bounds = self.place(ids, cache, segments)
        x = self.embed_tokens(ids)
        cos, sin = rotation(positions, c.rope_theta, c.head_dim, c.rope_scaling, x.dtype)  # (T, D) or (B, T, D)
        if cos.ndim == 3:
            cos, sin = cos[:, None], sin[:, None]  # (B, 1, T, D)
        cos, sin = to_device(cos, x.device), to_device(sin, x.device)
        if (y := decoding.steps(x, self.layers, cache, cos, sin)) is not None:
            return self.norm(y)
        for i, block in enumerate(self.layers):
            x = block(x, cos, sin, cache and cache.layers[i], mask, bounds)
        return self.norm(x)
