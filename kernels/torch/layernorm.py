"""Layer normalization: `tinygrad_llm.ops.layernorm` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def layernorm_forward(x, weight, bias, eps=1e-5):
    y, mean, rstd = aten.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    return y, (x, weight, bias, mean, rstd)


@on_tensors
def layernorm_backward(dy, saved):
    x, weight, bias, mean, rstd = saved
    wanted = [True, weight is not None, bias is not None]
    return aten.native_layer_norm_backward(dy, x, x.shape[-1:], mean, rstd, weight, bias, wanted)
