"""GPT-2 (Radford et al. 2019): a stack of transformer blocks over token and position embeddings, with a tied head.

Shapes: B sequences of T tokens of C = n_embd numbers; H = n_head heads of D = C / H; a vocabulary of V.
"""

from dataclasses import dataclass
from typing import Literal

from tinygrad_llm import functional as F
from tinygrad_llm import ops
from tinygrad_llm.errors import UserError
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.nn import Cache, Dropout, Embedding, LayerNorm, Linear, Module, MultiHeadAttention, add_norm, decoding
from tinygrad_llm.tensor import Tensor


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    Args:
        vocab_size: how many different tokens there are; 0 takes the tokenizer's number
        block_size: the longest sequence, in tokens
        n_layer: transformer blocks
        n_head: attention heads in a block; they share n_embd equally
        n_embd: width: how many numbers stand for a token
        dropout: the probability that a number is dropped while training
        bias: whether linear layers and layer norms have biases, as GPT-2's do
        activation: "gelu_tanh", GPT-2's approximation, or "gelu", exact, as nanoGPT has it
        tie_weights: whether the head is the token embedding
    """

    vocab_size: int = 50257
    block_size: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    tie_weights: bool = True

    def __post_init__(self):
        for name in ("block_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.vocab_size < 0:
            raise UserError(f"vocab_size must not be negative, as {self.vocab_size} is")
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: heads share it equally")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be from 0 to below 1, not {self.dropout}")
        if self.activation not in ("gelu_tanh", "gelu"):
            raise UserError(f"activation must be 'gelu_tanh' or 'gelu', not {self.activation!r}")

    @property
    def n_kv_head(self) -> int:
        """Heads of keys and values: as many as of queries."""
        return self.n_head

    @property
    def head_dim(self) -> int:
        """How many numbers a head has."""
        return self.n_embd // self.n_head


_nanogpt = {"vocab_size": 0, "bias": False, "activation": "gelu"}

PRESETS: dict[str, dict] = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
    "nanogpt-cpu": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, **_nanogpt},
    "nanogpt-gpu": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "dropout": 0.2, **_nanogpt},
    "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 0},
}


class MLP(Module):
    """The feed-forward part of a block: four times wider, the activation, and back."""

    def __init__(self, config: GPTConfig):
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, config.bias)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, config.bias)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        if not (type(self.c_fc) is type(self.c_proj) is Linear):  # a quantized one, say
            return self.c_proj(F.gelu(self.c_fc(x), self.approximate))
        return ops.mlp(x, self.c_fc.weight, self.c_fc.bias, self.c_proj.weight, self.c_proj.bias, self.approximate)


class Block(Module):
    """A transformer block: attention, then the feed-forward part, each after a norm and added to what came in.

    The sums are the shortcut connections (He et al. 2015): their gradient passes every block undiminished.
    """

    def __init__(self, config: GPTConfig):
        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
        self.attn = MultiHeadAttention(config.n_embd, config.n_head, config.dropout, config.bias)
        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, *attention) -> Tensor:
        x, normed = add_norm(x, self.drop(self.attn(self.ln_1(x), *attention)), self.ln_2)
        return x + self.drop(self.mlp(normed))

    def arrays(self) -> decoding.Arrays:
        """What a kernel for decoding computes with."""
        x, qkv, fc = self.ln_1.weight.data, self.attn.c_attn, self.mlp.c_fc
        attention = (decoding.projection(layer, x) for layer in (qkv, None, None, self.attn.c_proj))
        mlp = (decoding.projection(layer, x) for layer in (fc, None, self.mlp.c_proj))
        norms = (decoding.norm(layer) for layer in (self.ln_1, self.ln_2))
        return decoding.Arrays(
            self.attn.n_head, fc.weight.shape[0], *norms, *attention, *mlp, self.mlp.approximate == "tanh"
        )


class GPT(LanguageModel):
    """A GPT, initialized as GPT-2: see `LanguageModel.initialize`."""

    def __init__(self, config: GPTConfig):
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = [Block(config) for _ in range(config.n_layer)]
        self.ln_f = LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = None if config.tie_weights else Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialize(("c_proj.weight",))

    @property
    def embedding(self) -> Embedding:
        return self.wte

    @property
    def blocks(self) -> list[Module]:
        return self.h

    @property
    def final_norm(self) -> Module:
        return self.ln_f

    def hidden(self, ids, cache: Cache | None = None, segments=None) -> Tensor:
        positions, mask, bounds = self.place(ids, cache, segments)
        x = self.drop(self.wte(ids) + self.wpe(positions))
        if (y := decoding.steps(x, self.h, cache)) is not None:
            return self.ln_f(y)
        for i, block in enumerate(self.h):
            x = block(x, cache and cache.layers[i], mask, bounds)
        return self.ln_f(x)
