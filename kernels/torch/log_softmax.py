"""Logarithm of the softmax: `tinygrad_llm.ops.log_softmax` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def log_softmax_forward(x, dim=-1):
    y = aten._log_softmax(x, dim, False)
    return y, (y, dim)


@on_tensors
def log_softmax_backward(dy, saved):
    y, dim = saved
    return aten._log_softmax_backward_data(dy, y, dim, y.dtype)
