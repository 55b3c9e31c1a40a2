"""The feed-forward part: `tinygrad_llm.ops.mlp` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.linear import affine, gradients
from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def mlp_forward(x, fc_weight, fc_bias, proj_weight, proj_bias, approximate="none"):
    rows = x.reshape(-1, x.shape[-1])
    h = affine(rows, fc_weight, fc_bias)
    y = affine(aten.gelu(h, approximate=approximate), proj_weight, proj_bias)
    saved = rows, h, fc_weight, proj_weight, fc_bias is not None, proj_bias is not None, approximate
    return y.reshape(*x.shape[:-1], len(proj_weight)), saved


@on_tensors
def mlp_backward(dy, saved, needs, out):
    x, h, fc_weight, proj_weight, has_fc_bias, has_proj_bias, approximate = saved
    a = aten.gelu(h, approximate=approximate)
    rows_dy = dy.reshape(len(x), -1)
    da, dproj_weight, dproj_bias = gradients(rows_dy, a, proj_weight, has_proj_bias, (True, *needs[3:]), out[2:])
    dh = aten.gelu_backward(da, h, approximate=approximate)
    dx, dfc_weight, dfc_bias = gradients(dh, x, fc_weight, has_fc_bias, needs, out)
    return None if dx is None else dx.reshape(*dy.shape[:-1], -1), dfc_weight, dfc_bias, dproj_weight, dproj_bias
