"""The Llama in PyTorch, its parameters named as ours. Rotations are products of complex numbers; none are scaled."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config
        self.n_head, self.head_dim = c.n_head, c.head_dim
        queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
        self.input_layernorm = nn.RMSNorm(c.n_embd, c.norm_eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(c.n_embd, queries, c.attention_bias),
                "k_proj": nn.Linear(c.n_embd, keys, c.attention_bias),
                "v_proj": nn.Linear(c.n_embd, keys, c.attention_bias),
                "o_proj": nn.Linear(queries, c.n_embd, c.attention_output_bias),
            }
        )
        self.post_attention_layernorm = nn.RMSNorm(c.n_embd, c.norm_eps)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(c.n_embd, c.intermediate_size, c.mlp_bias),
                "up_proj": nn.Linear(c.n_embd, c.intermediate_size, c.mlp_bias),
                "down_proj": nn.Linear(c.intermediate_size, c.n_embd, c.mlp_bias),
            }
        )

    def forward(self, x, turns):
        h = self.input_layernorm(x)
        heads = [self.self_attn[f"{name}_proj"](h).unflatten(-1, (-1, self.head_dim)) for name in "qkv"]
        q, k, v = (x.transpose(1, 2) for x in heads)  # (B, H, T, D)
        y = F.scaled_dot_product_attention(rotate(q, turns), rotate(k, turns), v, is_causal=True, enable_gqa=True)
        x = x + self.self_attn["o_proj"](y.transpose(1, 2).flatten(2))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


def rotate(x, turns):
    """Channels i and i + D/2 of x (B, H, T, D), as the parts of a complex number, times turns (T, D/2)."""
    first, second = x.chunk(2, -1)
    y = torch.complex(first, second) * turns
    return torch.cat([y.real, y.imag], -1)


class Llama(nn.Module):
    """Takes any configuration object with the fields of ours; `state_dict` has the same names and shapes."""

    def __init__(self, config):
        super().__init__()
        if config.rope_scaling is not None:
            raise ValueError("this twin has no scaled rotations")
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = None if config.tie_weights else nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, ids):
        """Logits (B, T, V) for ids (B, T)."""
        x = self.embed_tokens(ids)
        channels = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32) / self.config.head_dim
        frequencies = 1 / self.config.rope_theta**channels  # float32, as the published implementations have them
        angles = torch.arange(ids.size(1)).to(x.dtype)[:, None] * frequencies.to(x.dtype)
        turns = torch.polar(torch.ones_like(angles), angles)  # (T, D/2)
        for block in self.layers:
            x = block(x, turns)
        head = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(self.norm(x), head)

    def loss(self, ids, targets):
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())
