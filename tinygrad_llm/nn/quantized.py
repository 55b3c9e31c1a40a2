"""Layers whose weight is quantized: as `Linear` and `Embedding`, but the weight is no parameter and has no gradient."""

from collections.abc import Iterator, Mapping

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm.errors import UserError
from tinygrad_llm.nn.layers import Embedding, Linear
from tinygrad_llm.nn.module import Module, Parameter
from tinygrad_llm.quantization import Quantized
from tinygrad_llm.tensor import Tensor


class QuantizedLinear(Module):
    """y = x weight^T + bias, with a weight (out_features, in_features) that stays quantized."""

    def __init__(self, weight: Quantized, bias: Parameter | np.ndarray | None = None):
        self.weight = weight
        self.bias = bias if bias is None or isinstance(bias, Parameter) else Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class QuantizedEmbedding(Module):
    """A table of quantized rows, of which those looked up are made floating numbers."""

    def __init__(self, weight: Quantized):
        self.weight = weight

    def forward(self, ids) -> Tensor:
        return F.embedding(ids, self.weight)


def use_quantized(model: Module, weights: Mapping[str, Quantized]) -> None:
    """Put quantized weights in the place of the model's of the same names, such as "layers.0.mlp.up_proj.weight".

    Their layers, each a Linear or an Embedding, become a QuantizedLinear or a QuantizedEmbedding. Raises UserError,
    before anything is changed, for a name or a shape that the model does not have.
    """
    layers = {name: (parent, attribute) for name, parent, attribute in _layers(model)}
    for name, weight in weights.items():
        if name not in layers:
            raise UserError(f"{name} is the weight of no Linear or Embedding of {type(model).__name__}")
        parent, attribute = layers[name]
        if (shape := getattr(parent, attribute).weight.shape) != weight.shape:
            raise UserError(f"{name} has shape {weight.shape}, not {shape}")
    for name, weight in weights.items():
        parent, attribute = layers[name]
        layer = getattr(parent, attribute)
        linear = isinstance(layer, Linear)
        setattr(parent, attribute, QuantizedLinear(weight, layer.bias) if linear else QuantizedEmbedding(weight))


def _layers(module: Module, prefix: str = "") -> Iterator[tuple[str, Module, str]]:
    """Of each Linear and Embedding that is an attribute: its weight's name, the module it is in, and the attribute."""
    for name, child in module.named_children():
        if isinstance(child, Linear | Embedding):
            if name in vars(module):
                yield f"{prefix}{name}.weight", module, name
        else:
            yield from _layers(child, f"{prefix}{name}.")
