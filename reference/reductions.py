"""Reductions and running sums in PyTorch, and its matrix product."""

import numpy as np
import torch

from tinygrad_llm.reference.cases import case, normal, oracle, ties

REDUCTIONS = (
    case(normal(3, 7)),
    case(normal()),
    case(normal(33, 97), dim=0),
    case(normal(2, 3, 1023), dim=-1, keepdim=True),
    case(normal(2, 3, 7), dim=(0, -1)),
    case(normal(1, 7), dim=0),
    case(normal(), dim=0),
    case(normal(), dim=-1),
)


@oracle(*REDUCTIONS, case(normal(0, 3), dim=0))
def sum_(x, dim=None, keepdim=False):
    return torch.sum(x, dim, keepdim)


@oracle(*REDUCTIONS, case(normal(0, 3), dim=1))
def mean(x, dim=None, keepdim=False):
    return torch.mean(x, dim, keepdim)


@oracle(
    case(normal(3, 7)),
    case(normal(33, 97), dim=0, correction=0),
    case(normal(2, 3, 1023), dim=-1, keepdim=True),
    case(normal(2, 3, 7), dim=(0, -1), correction=2),
    case(normal(0, 3), dim=1),
)
def var(x, dim=None, correction=1, keepdim=False):
    return torch.var(x, dim, correction=correction, keepdim=keepdim)


@oracle(*REDUCTIONS, case(ties(3, 7), dim=-1), case(ties(2, 3, 33), dim=(0, 2), keepdim=True), case(ties(97)))
def amax(x, dim=None, keepdim=False):
    return torch.amax(x, () if dim is None else dim, keepdim)


@oracle(
    case(normal(3, 7), dim=1),
    case(normal(33, 97, scale=300.0), dim=0),
    case(normal(2, 3, 1023), dim=-1, keepdim=True),
    case(normal(2, 3, 7), dim=(0, 2)),
    case(np.array([[-np.inf, 1.0, 2.0], [-np.inf, -np.inf, -np.inf], [0.5, -np.inf, 3.0]]), dim=1),
)
def logsumexp(x, dim, keepdim=False):
    return torch.logsumexp(x, dim, keepdim)


@oracle(case(normal(7), dim=0), case(normal(3, 33), dim=-1), case(normal(2, 97, 3), dim=1), case(normal(0, 3), dim=0))
def cumsum(x, dim):
    return torch.cumsum(x, dim)


@oracle(
    case(normal(7), normal(7)),
    case(normal(7), normal(7, 3)),
    case(normal(3, 7), normal(7)),
    case(normal(33, 97), normal(97, 7)),
    case(normal(2, 3, 7), normal(7, 33)),
    case(normal(3, 7), normal(2, 7, 33)),
    case(normal(5, 1, 3, 7), normal(2, 7, 3)),
    case(normal(7), normal(2, 3, 7, 5)),
    case(normal(2, 3, 5, 7), normal(7)),
    case(normal(1, 1), normal(1, 1)),
    case(normal(3, 1023), normal(1023, 3)),
    case(normal(0, 3), normal(3, 7)),
)
def matmul(x, y):
    return torch.matmul(x, y)
