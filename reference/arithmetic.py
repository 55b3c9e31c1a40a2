"""Element-wise operations in PyTorch."""

import torch

from tinygrad_llm.reference.cases import case, normal, oracle


@oracle(case(normal(3, 7)), case(normal(1)), case(normal(2, 3, 33)))
def exp(x):
    return torch.exp(x)


@oracle(
    case(normal(3, 7), normal(3, 7)),
    case(normal(2, 1, 7), normal(3, 1)),
    case(normal(33), normal(97, 33)),
    case(normal(3, 7), 0.5),
    case(2.0, normal(7)),
)
def mul(x, y):
    return torch.mul(x, y)
