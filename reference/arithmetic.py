"""Element-wise operations in PyTorch."""

import numpy as np
import torch
import torch.nn.functional as F

from tinygrad_llm.reference.cases import booleans, bytes_, case, integers, normal, oracle, positive, ties

UNARY = (case(normal(3, 7)), case(normal(1)), case(normal()), case(normal(2, 3, 33)), case(normal(0, 3)))
BINARY = (
    case(normal(3, 7), normal(3, 7)),
    case(normal(2, 1, 7), normal(3, 1)),
    case(normal(33), normal(97, 33)),
    case(normal(97, 33), normal(33)),
    case(normal(2, 3, 7), normal(3, 7)),
    case(normal(), normal(3, 7)),
    case(normal(0, 3), normal(3)),
    case(normal(3, 7), 0.5),
    case(2, normal(7)),
    case(normal(3, 7), integers(3, 7, low=1, high=5)),
)
# What decides the dtype: floating before whole before boolean, axes before none, these before Python's numbers.
MIXED = (
    case(integers(3, 7, high=5), booleans(7)),
    case(integers(7, high=5), 0.5),
    case(booleans(7), 2),
    case(booleans(7), integers(high=5)),
    case(normal(), integers(7, high=5)),
    case(integers(7, high=5), bytes_(7)),
    case(bytes_(7), booleans(7)),
    case(bytes_(7), integers(high=5)),
    case(bytes_(7), 2),
)


@oracle(*BINARY, *MIXED, case(integers(3, 7, high=5), normal(7)))
def add(x, y):
    return x + y


@oracle(*BINARY)
def sub(x, y):
    return x - y


@oracle(*BINARY, *MIXED)
def mul(x, y):
    return x * y


@oracle(
    case(normal(3, 7), positive(3, 7)),
    case(normal(2, 1, 7), positive(3, 1)),
    case(normal(33), positive(97, 33)),
    case(normal(3, 7), 0.5),
    case(2, positive(7)),
    case(integers(3, 7, high=5), positive(7)),
    case(integers(3, 7, high=5), integers(7, low=1, high=5)),
)
def div(x, y):
    return x / y


@oracle(*UNARY)
def neg(x):
    return -x


@oracle(
    case(normal(3, 7), 2),
    case(normal(3, 7), 0),
    case(ties(3, 7), 2.0),
    case(ties(33), 0.0),
    case(ties(7), 1),
    case(positive(3, 7), -0.5),
    case(ties(3, 7), integers(3, 7, high=3)),
    case(positive(2, 1, 7), normal(3, 1)),
    case(2.0, normal(3, 7)),
    case(0.0, positive(7)),
    case(np.array([0.0, 0.0, 0.0, 2.0]), np.array([0.0, -1.0, 2.0, -0.5])),
)
def pow_(x, y):
    return x**y


@oracle(*UNARY)
def exp(x):
    return torch.exp(x)


@oracle(case(positive(3, 7)), case(positive(1)), case(positive(2, 3, 33)))
def log(x):
    return torch.log(x)


@oracle(case(positive(3, 7)), case(positive(1)), case(positive(2, 3, 33)))
def sqrt(x):
    return torch.sqrt(x)


@oracle(*UNARY, case(normal(97, scale=30.0)))
def tanh(x):
    return torch.tanh(x)


@oracle(*UNARY, case(normal(97, scale=300.0)))
def sigmoid(x):
    return torch.sigmoid(x)


@oracle(*UNARY, case(normal(97, scale=300.0)))
def logsigmoid(x):
    return F.logsigmoid(x)


@oracle(*UNARY, case(normal(97, scale=300.0)))
def silu(x):
    return F.silu(x)


@oracle(*UNARY, case(ties(33)))
def relu(x):
    return F.relu(x)


@oracle(*UNARY, case(ties(33)))
def abs_(x):
    return torch.abs(x)


@oracle(
    case(normal(3, 7), min=-0.5, max=0.7),
    case(normal(33), min=0.1),
    case(normal(97), max=-0.1),
    case(ties(3, 33), min=0, max=1),  # a number on a bound keeps its gradient
)
def clamp(x, min=None, max=None):
    return torch.clamp(x, min, max)


EXTREMES = (
    case(normal(3, 7), normal(3, 7)),
    case(ties(33), ties(97, 33)),
    case(normal(2, 1, 7), normal(3, 1)),
    case(ties(7), ties()),
)


@oracle(*EXTREMES)
def maximum(x, y):
    return torch.maximum(x, y)


@oracle(*EXTREMES)
def minimum(x, y):
    return torch.minimum(x, y)


@oracle(
    case(booleans(3, 7), normal(3, 7), normal(3, 7)),
    case(booleans(2, 1, 7), normal(3, 1), normal(2, 3, 7)),
    case(booleans(33), normal(97, 33), 0.5),
    case(booleans(3, 1), float("-inf"), normal(7)),
)
def where(condition, x, y):
    return torch.where(condition, x, y)


@oracle(
    case(normal(3, 7), booleans(3, 7), 0.0),
    case(normal(2, 3, 33), booleans(3, 1), float("-inf")),
    case(normal(97), booleans(97, share=0.0), 1.5),
)
def masked_fill(x, mask, value):
    return x.masked_fill(mask, value)


@oracle(case(normal(3, 7), "float32"), case(normal(33), "float64"), case(normal(7, scale=10.0), "int64"))
def cast(x, dtype):
    return x.to(getattr(torch, dtype))
