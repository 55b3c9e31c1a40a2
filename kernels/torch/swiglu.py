"""SwiGLU: `tinygrad_llm.ops.swiglu` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def swiglu_forward(gate, up):
    return aten.silu(gate).mul_(up), (gate, up)


@on_tensors
def swiglu_backward(dy, saved):
    gate, up = saved
    return aten.silu_backward(dy * up, gate), aten.silu(gate).mul_(dy)
