"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): a small trained product beside each large frozen weight.

A weight W (out, in) becomes W + s B A, with A (r, in) and B (out, r). B starts at zero, so that a fresh adapter changes
nothing. The scale s is alpha / r, or alpha / sqrt(r), which keeps a large rank learning (rsLoRA, Kalajdzievski 2023,
https://arxiv.org/abs/2312.03732). The base may be quantized (QLoRA): the adapter is floating all the same.

>>> add_lora(model, LoRAConfig(rank=8))  # from here on the adapters alone are trained
>>> optimizer = AdamW(lora_parameters(model))
>>> adapters = merge(model)              # plain layers, as fast as they were
>>> unmerge(model, adapters)             # and back, to the bit
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm import random
from tinygrad_llm.errors import UserError
from tinygrad_llm.nn.layers import Linear
from tinygrad_llm.nn.module import Module, Parameter, initial, meta
from tinygrad_llm.nn.quantized import QuantizedLinear
from tinygrad_llm.quantization import Quantized
from tinygrad_llm.tensor import Tensor


@dataclass(frozen=True)
class LoRAConfig:
    """Which layers get adapters, and of what kind.

    Args:
        rank: rows of A and columns of B
        alpha: the adapter's weight: it is multiplied by alpha / rank
        dropout: the probability that a number of the adapter's input is dropped while training
        target: linear layers of the transformer blocks: names or ends of names, with commas between them, where *
            stands for anything
        rslora: rank-stabilized: multiply by alpha / sqrt(rank) instead
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target: str = "*"
    rslora: bool = False

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"the rank of an adapter must be at least 1, not {self.rank}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be from 0 to below 1, not {self.dropout}")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"alpha must be a number above 0, not {self.alpha}")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class LoRALinear(Module):
    """y = base(x) + scale dropout(x) A^T B^T. The base, a Linear or a QuantizedLinear, is frozen.

    A starts uniform within ±1/sqrt(in_features), as PEFT's does, and B at zero.
    """

    def __init__(self, base: Linear | QuantizedLinear, config: LoRAConfig):
        out_features, in_features = base.weight.shape
        dtype = np.float32 if isinstance(base.weight, Quantized) else base.weight.dtype
        draw = partial(random.default.uniform, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))
        self.config, self.training = config, base.training
        self.base = base.requires_grad_(False)
        self.lora_A = Parameter(initial((config.rank, in_features), draw), dtype)
        self.lora_B = Parameter(initial((out_features, config.rank), np.zeros), dtype)

    def forward(self, x: Tensor) -> Tensor:
        dropout = self.config.dropout if self.training else 0.0
        weight, bias = self.base.weight, self.base.bias
        return F.lora_linear(x, weight, bias, self.lora_A, self.lora_B, self.config.scale, dropout)

    def merged(self) -> Linear:
        """A frozen Linear of the same function, with the weight W + scale B A, made floating if W is quantized."""
        a, b, weight = self.lora_A.data, self.lora_B.data, self.base.weight
        with meta():
            layer = Linear(*weight.shape[::-1], bias=False)
        weight = weight.dequantize(a.dtype) if isinstance(weight, Quantized) else weight.data
        layer.weight = Parameter(weight + self.config.scale * (b @ a), requires_grad=False)
        layer.bias, layer.training = self.base.bias, self.training
        return layer


def add_lora(model: Module, config: LoRAConfig) -> None:
    """Freeze the model, and put adapters beside those of its linear layers that `config.target` names.

    What else shall be trained, say a new head, is to be asked for afterwards (`requires_grad_`). Raises UserError,
    before anything is changed, where a name fits no layer, and for a model that has adapters.
    """
    if adapters(model):
        raise UserError("the model has adapters already: merge them first")
    layers = linear_layers(model)
    chosen = set()
    for pattern in config.target.split(","):
        found = {name for name in layers if fnmatchcase(f".{name}", f"*.{pattern.strip()}")}
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise UserError(f"no block has a linear layer {pattern.strip()!r}: there are {', '.join(ends) or 'none'}")
        chosen |= found
    model.requires_grad_(False)
    for name in [name for name in layers if name in chosen]:  # in their order, for the random numbers
        _replace(model, name, LoRALinear(layers[name], config))


def linear_layers(model: Module) -> dict[str, Linear | QuantizedLinear | LoRALinear]:
    """The layers in blocks, which may have an adapter or have one, by name. The head is in none, nor in a list."""
    kinds, layers = Linear | QuantizedLinear | LoRALinear, _named_modules(model)
    return {name: x for name, x in layers if isinstance(x, kinds) and any(part.isdigit() for part in name.split("."))}


def adapters(model: Module) -> dict[str, LoRALinear]:
    """The layers that have an adapter, by name."""
    return {name: layer for name, layer in linear_layers(model).items() if isinstance(layer, LoRALinear)}


def lora_parameters(model: Module) -> list[Parameter]:
    """Every adapter's A and B."""
    return [parameter for layer in adapters(model).values() for parameter in (layer.lora_A, layer.lora_B)]


def merge(model: Module) -> dict[str, LoRALinear]:
    """Put plain layers with the sums of weights and adapters in the place of those with adapters, and return these.

    They keep the weights as they were, so that `unmerge` restores the model to the bit, and take as much memory again
    until they are let go.
    """
    layers = adapters(model)
    for name, layer in layers.items():
        _replace(model, name, layer.merged())
    return layers


def unmerge(model: Module, layers: dict[str, LoRALinear]) -> None:
    """Put the layers with adapters, which `merge` has returned, back into their places."""
    for name, layer in layers.items():
        _replace(model, name, layer.train(model.training))


@contextmanager
def without_adapters(model: Module) -> Iterator[None]:
    """Inside this block the model is what it was before it had adapters, and takes no more memory."""
    layers = adapters(model)
    for name, layer in layers.items():
        _replace(model, name, layer.base)
    try:
        yield
    finally:
        for name, layer in layers.items():
            _replace(model, name, layer)


def _named_modules(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Every module below this one with its name, but for the base of an adapter."""
    for name, child in module.named_children():
        yield prefix + name, child
        if not isinstance(child, LoRALinear):
            yield from _named_modules(child, f"{prefix}{name}.")


def _replace(module: Module, name: str, layer: Module) -> None:
    """Put the layer in the place of the one of this name, an attribute or in a list."""
    path, _, last = name.rpartition(".")
    parent = module
    for part in path.split(".") if path else []:
        parent = parent[int(part)] if isinstance(parent, list) else getattr(parent, part)
    if isinstance(parent, list):
        parent[int(last)] = layer
    else:
        setattr(parent, last, layer)
