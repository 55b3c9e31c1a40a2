"""GELU: `tinygrad_llm.ops.gelu` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def gelu_forward(x, approximate="none"):
    return aten.gelu(x, approximate=approximate), (x, approximate)


@on_tensors
def gelu_backward(dy, saved):
    x, approximate = saved
    return aten.gelu_backward(dy, x, approximate=approximate)
