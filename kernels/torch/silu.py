"""SiLU: `tinygrad_llm.ops.silu` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def silu_forward(x):
    return aten.silu(x), (x,)


@on_tensors
def silu_backward(dy, saved):
    return aten.silu_backward(dy, *saved)
