"""The feed-forward part on `product`, which applies GELU to the rows that it has just computed: `tinygrad_llm.ops.mlp`
has the definition and the derivation."""

from tinygrad_llm.kernels.numba.linear import linear_backward, weight_gradients
from tinygrad_llm.kernels.numba.product import product, product_gelu, product_gelu_back


def mlp_forward(x, fc_weight, fc_bias, proj_weight, proj_bias, approximate="none"):
    h, a = product_gelu(x.reshape(-1, x.shape[-1]), fc_weight.T, fc_bias, approximate)
    y = product(a, proj_weight.T, bias=proj_bias).reshape(*x.shape[:-1], len(proj_weight))
    return y, x, h, fc_weight, proj_weight, fc_bias is not None, proj_bias is not None, approximate


def mlp_backward(dy, x, h, fc_weight, proj_weight, has_fc_bias, has_proj_bias, approximate, needs, out):
    rows_dy = dy.reshape(-1, dy.shape[-1])
    dh, a = product_gelu_back(rows_dy, proj_weight, h, approximate)
    dproj_weight, dproj_bias = weight_gradients(rows_dy, a, needs[3], has_proj_bias, out[3:])
    del a  # one of the two largest arrays of a block
    dx, dfc_weight, dfc_bias = linear_backward(dh, x.reshape(-1, x.shape[-1]), fc_weight, has_fc_bias, needs, out)
    return dx.reshape(x.shape) if needs[0] else None, dfc_weight, dfc_bias, dproj_weight, dproj_bias
