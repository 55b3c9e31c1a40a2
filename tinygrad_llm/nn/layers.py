"""The layers that models are made of, under torch.nn's names, with its arguments and its initialization."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from tinygrad_llm import autograd, kernels, random
from tinygrad_llm import functional as F
from tinygrad_llm.autograd import record, watched
from tinygrad_llm.nn.module import Module, Parameter, initial
from tinygrad_llm.tensor import Tensor


class Linear(Module):
    """y = x weight^T + bias. weight (out_features, in_features); both start uniform within ±1/sqrt(in_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        draw = partial(random.default.uniform, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))
        self.weight = Parameter(initial((out_features, in_features), draw))
        self.bias = Parameter(initial((out_features,), draw)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A table of num_embeddings rows of embedding_dim numbers, normal at the start; the row padding_idx stays zero."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        self.weight = Parameter(initial((num_embeddings, embedding_dim), partial(random.default.normal, 0, 1)))
        self.padding_idx = padding_idx
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, ids) -> Tensor:
        return F.embedding(ids, self.weight, self.padding_idx)


class LayerNorm(Module):
    """Layer normalization over the last axes, which have the shape `normalized_shape`, or over one of that size."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, *, bias: bool = True):
        shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self.weight = Parameter(initial(shape, np.ones))
        self.bias = Parameter(initial(shape, np.zeros)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Root-mean-square normalization over the last axes, which have the shape `normalized_shape`, or over one of that
    size."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-6):
        self.weight = Parameter(initial(tuple(np.atleast_1d(normalized_shape).tolist()), np.ones))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def add_norm(x: Tensor, y: Tensor, norm: Module) -> tuple[Tensor, Tensor]:
    """x + y, as where a shortcut ends, and the norm of the sum: in one pass over memory where a kernel has them so.

    On the tape they are two operations nonetheless, an addition and a norm.
    """
    name = {LayerNorm: "layernorm", RMSNorm: "rmsnorm"}.get(type(norm))
    kernel = kernels.find(name, x.data) if name and (x.shape, x.dtype) == (y.shape, y.dtype) else None
    if not hasattr(kernel, f"add_{name}_forward"):
        z = x + y
        return z, norm(z)
    vectors = (norm.weight, norm.bias) if name == "layernorm" else (norm.weight,)
    inputs = [x.data, y.data, *(v if v is None else v.data for v in vectors), norm.eps]
    forward, backward = getattr(kernel, f"add_{name}_forward"), getattr(kernel, f"{name}_backward")
    z, normed, *saved = watched("forward", f"add_{name}", forward, inputs, {})
    z = record("add", (x, y), z, lambda dz: (dz, dz))
    normed = record(name, (z, *vectors), normed, lambda dy, arrived: backward(dy, *saved, arrived), gathers=True)
    if normed.node and normed.data.nbytes >= autograd.LARGE:
        normed.node.again = partial(getattr(kernel, f"{name}_forward"), z.data, *inputs[2:])
    return z, normed


class Dropout(Module):
    """Drop each number with probability p while training."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


class GELU(Module):
    """Gaussian error linear unit; approximate="tanh" for GPT-2's."""

    def __init__(self, approximate: str = "none"):
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)


class Sequential(Module):
    """Modules one after another."""

    def __init__(self, *layers: Module):
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
