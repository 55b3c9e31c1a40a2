"""Operations that move elements, in PyTorch."""

import numpy as np
import torch

from tinygrad_llm.reference.cases import booleans, case, integers, normal, oracle


@oracle(
    case(normal(3, 7), 7, 3),
    case(normal(2, 3, 33), (-1, 9)),
    case(normal(1, 1), ()),
    case(normal(97), 1, -1, 97),
    case(normal(0, 3), 3, 0),
)
def reshape(x, *shape):
    return x.reshape(*shape)


@oracle(
    case(normal(3, 7), 1, 0),
    case(normal(2, 3, 7, 5), (0, 2, 1, 3)),
    case(normal(2, 3, 7), -1, 0, -2),
    case(normal(33), 0),
)
def permute(x, *dims):
    return x.permute(*dims)


@oracle(
    case(normal(3, 1), 3, 7),
    case(normal(1, 33), 2, -1, 33),
    case(normal(1), (97,)),
    case(normal(), 3, 7),
    case(normal(2, 1, 3), -1, 7, -1),
)
def expand(x, *sizes):
    return x.expand(*sizes)


@oracle(
    case(normal(7, 3), 2),
    case(normal(7, 3), -1),
    case(normal(33, 97), (slice(1, None, 3), slice(None, 7))),
    case(normal(2, 3, 7), (..., 0)),
    case(normal(2, 3, 7), (slice(None), None, 1)),
    case(normal(7, 3), None),
    case(normal(7, 3), integers(33, high=7)),  # rows repeat
    case(normal(7, 3), integers(2, 5, low=-7, high=7)),
    case(normal(7, 3), (np.array([0, 0, 6, 0]), np.array([1, 1, 2, 0]))),
    case(normal(7, 3, 5), (slice(None), np.array([2, 2, 0]), slice(1, 3))),
    case(normal(7, 3), booleans(7)),
    case(normal(7, 3), booleans(7, 3)),
    case(normal(7, 3), slice(3, 3)),
)
def getitem(x, index):
    return x[index]


@oracle(
    case(normal(7, 3), 0, integers(33, 3, high=7)),
    case(normal(3, 97), 1, integers(3, 1, high=97)),
    case(normal(2, 3, 7), -1, integers(1, 2, 33, high=7)),  # index is smaller than x in the other axes
    case(normal(7), 0, integers(5, high=7)),
)
def gather(x, dim, index):
    return torch.gather(x, dim, index)


@oracle(
    case(normal(3, 7), normal(1, 7), normal(33, 7)),
    case(normal(2, 3, 7), normal(2, 3, 1), dim=-1),
    case(normal(97)),
    case(normal(0, 3), normal(7, 3)),
)
def concatenate(*tensors, dim=0):
    return torch.cat(tensors, dim)


TRIANGLES = (
    case(normal(7, 7)),
    case(normal(3, 33), diagonal=-1),
    case(normal(2, 7, 3), diagonal=1),
    case(normal(1, 1)),
)


@oracle(*TRIANGLES)
def tril(x, diagonal=0):
    return torch.tril(x, diagonal)


@oracle(*TRIANGLES)
def triu(x, diagonal=0):
    return torch.triu(x, diagonal)
