"""The GPT in PyTorch, its parameters named as ours, and its training step: what ours is compared with, step by step."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, bias = config.n_embd, config.bias
        self.n_head, self.dropout = config.n_head, config.dropout
        self.ln_1 = nn.LayerNorm(width, bias=bias)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width, bias), "c_proj": nn.Linear(width, width, bias)}
        )
        self.ln_2 = nn.LayerNorm(width, bias=bias)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias), "c_proj": nn.Linear(4 * width, width, bias)}
        )
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, x):
        batch, length, width = x.shape
        dropout = self.dropout if self.training else 0.0
        heads = (batch, length, self.n_head, width // self.n_head)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.attn["c_attn"](self.ln_1(x)).split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        y = self.attn["c_proj"](y.transpose(1, 2).reshape(x.shape))
        x = x + F.dropout(y, dropout)
        y = self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate=self.approximate))
        return x + F.dropout(y, dropout)


class GPT(nn.Module):
    """Takes any configuration object with the fields of ours; `state_dict` has the same names and shapes."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = None if config.tie_weights else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 / math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 0.02
                nn.init.normal_(parameter, 0.0, std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids):
        """Logits (B, T, V) for ids (B, T)."""
        dropout = self.config.dropout if self.training else 0.0
        x = F.dropout(self.wte(ids) + self.wpe.weight[: ids.size(1)], dropout)
        for block in self.h:
            x = block(x)
        head = self.wte.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(self.ln_f(x), head)

    def loss(self, ids, targets):
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())


def adamw(model: GPT, learning_rate, betas, weight_decay) -> torch.optim.AdamW:
    """AdamW that decays matrices and nothing else, as nanoGPT does; PyTorch chooses its fastest implementation."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def train_step(model: GPT, optimizer, ids, targets, grad_clip: float = 1.0, loss=None) -> float:
    """Forward, backward, clip and update on one batch of ids and targets (B, T); the loss before the update.

    `loss` may be a compiled `model.loss`.
    """
    value = (loss or model.loss)(ids, targets)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    return value.item()
