"""The feed-forward part of a transformer block in one: y = gelu(x W1^T + b1) W2^T + b2.

    h = x W1^T + b1,  a = gelu(h),  y = a W2^T + b2.

The derivatives are those of `linear` and `gelu`, line by line backwards. It is one operation for what it does not keep:
a is as large as h, the two are the largest arrays of a block, and a is cheap to make again from h.

Shapes: x (..., C); fc_weight (F, C), fc_bias (F,) or None; proj_weight (C, F), proj_bias (C,) or None; y (..., C).
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.gelu import gelu_backward, gelu_forward
from tinygrad_llm.ops.linear import linear_backward, linear_forward


def mlp_forward(x, fc_weight, fc_bias, proj_weight, proj_bias, approximate="none"):
    h = linear_forward(x, fc_weight, fc_bias)[0]  # (..., F)
    a = gelu_forward(h, approximate)[0]
    y = linear_forward(a, proj_weight, proj_bias)[0]
    return y, x, h, fc_weight, proj_weight, fc_bias is not None, proj_bias is not None, approximate


def mlp_backward(dy, x, h, fc_weight, proj_weight, has_fc_bias, has_proj_bias, approximate, needs):
    a = gelu_forward(h, approximate)[0]
    # y = a W2^T + b2
    da, dproj_weight, dproj_bias = linear_backward(dy, a, proj_weight, has_proj_bias, (True, *needs[3:]))
    # a = gelu(h)
    dh = gelu_backward(da, h, approximate)
    # h = x W1^T + b1
    dx, dfc_weight, dfc_bias = linear_backward(dh, x, fc_weight, has_fc_bias, needs)
    return dx, dfc_weight, dfc_bias, dproj_weight, dproj_bias


mlp = operation(mlp_forward, mlp_backward)
