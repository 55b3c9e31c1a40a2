"""The feed-forward part by cuBLAS and `gelu.cu`: `tinygrad_llm.ops.mlp` has the definition and the derivation.

What is kept of the first product is h without its bias: one pass adds the bias and applies GELU, and backwards one pass
makes of da and h the gradient dh, the bias's, and a once more.
"""

from tinygrad_llm.kernels.cuda.gelu import bias_gelu_backward, bias_gelu_forward
from tinygrad_llm.kernels.cuda.linear import affine, gradients, rows_of
from tinygrad_llm.kernels.cuda.product import product


def mlp_forward(x, fc_weight, fc_bias, proj_weight, proj_bias, approximate="none"):
    h = affine(rows_of(x), fc_weight, None)  # (..., F)
    y = affine(bias_gelu_forward(h, fc_bias, approximate), proj_weight, proj_bias)
    saved = x, h, fc_weight, fc_bias, proj_weight, proj_bias is not None, approximate
    return y.reshape(*x.shape[:-1], len(proj_weight)), *saved


def mlp_backward(dy, x, h, fc_weight, fc_bias, proj_weight, has_proj_bias, approximate, needs, out):
    rows_dy = rows_of(dy)
    da = product(rows_dy, proj_weight)
    dh, dfc_bias, a = bias_gelu_backward(da, h, fc_bias, approximate, again=True)
    _, dproj_weight, dproj_bias = gradients(rows_dy, a, proj_weight, has_proj_bias, (False, needs[3]), out[2:])
    dx, dfc_weight, _ = gradients(dh, rows_of(x), fc_weight, False, needs, out)
    return None if dx is None else dx.reshape(x.shape), dfc_weight, dfc_bias, dproj_weight, dproj_bias
