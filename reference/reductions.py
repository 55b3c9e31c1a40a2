"""Reductions in PyTorch."""

import torch

from tinygrad_llm.reference.cases import case, normal, oracle


@oracle(
    case(normal(3, 7)),
    case(normal(33, 97), dim=0),
    case(normal(2, 3, 1023), dim=-1, keepdim=True),
    case(normal(2, 3, 7), dim=(0, 2)),
)
def sum_(x, dim=None, keepdim=False):
    return torch.sum(x, dim, keepdim)
