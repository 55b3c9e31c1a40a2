"""The feed-forward part by the kernels of its steps: `tinygrad_llm.ops.mlp` has the definition and the derivation."""

from tinygrad_llm.kernels.numba.gelu import gelu_backward, gelu_forward
from tinygrad_llm.kernels.numba.linear import linear_backward, linear_forward


def mlp_forward(x, fc_weight, fc_bias, proj_weight, proj_bias, approximate="none"):
    h, *_ = linear_forward(x, fc_weight, fc_bias)
    a, *_ = gelu_forward(h, approximate)
    y, *_ = linear_forward(a, proj_weight, proj_bias)
    return y, x, h, fc_weight, proj_weight, fc_bias is not None, proj_bias is not None, approximate


def mlp_backward(dy, x, h, fc_weight, proj_weight, has_fc_bias, has_proj_bias, approximate, needs, out):
    a, *_ = gelu_forward(h, approximate)
    da, *dproj = linear_backward(dy, a, proj_weight, has_proj_bias, (True, *needs[3:]), (None, *out[3:]))
    del a  # the two largest arrays of a block: one at a time
    dh = gelu_backward(da, h, approximate)
    del da
    return *linear_backward(dh, x, fc_weight, has_fc_bias, needs, out), *dproj
