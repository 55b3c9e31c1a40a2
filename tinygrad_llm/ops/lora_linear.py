"""Linear layer with an adapter of low rank (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685):

    y = x W^T + b + u B^T,  u = s drop(x) A^T,

whose weight is W + s B A, of which W is kept as it is, and A and B, of rank r, are what is trained. By line, backwards:

    y = … + u B^T:      du = dy B,  dB = dy^T u, a sum over the rows
    u = s drop(x) A^T:  dA = s du^T drop(x),  dx = s drop'(du A), and to it comes
    y = x W^T + b:      dx = dy W, as in `linear`, and dW = dy^T x where somebody asks for it

A row takes (in + out) r multiplications for the adapter and in · out for W: to train the adapter alone leaves out dW,
one of the three large products. It is one operation for the sums: what the adapter adds to y and dx is added where
they are made. With a `type`, W is that of the quantized `weight` (out, bytes): see `quantized_linear` (QLoRA, Dettmers
et al. 2023, https://arxiv.org/abs/2305.14314).

Shapes: x (..., in), weight (out, in), bias (out,) or None, a (r, in), b (out, r), y (..., out); keep None, booleans
like x, or the `random.Mask` that they are made of.
"""

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.dropout import dropout_backward, dropout_forward
from tinygrad_llm.ops.linear import linear_backward, linear_forward
from tinygrad_llm.ops.quantized_linear import dequantize
from tinygrad_llm.random import booleans


def lora_linear_forward(x, weight, bias, a, b, scale=1.0, keep=None, dropout_p=0.0, type=None):
    keep = booleans(keep, x)
    y = linear_forward(x, _matrix(weight, type, x), bias)[0]
    u = scale * (_drop(x, keep, dropout_p) @ a.T)  # (..., r)
    y += u @ b.T
    return y, x, weight, bias is not None, a, b, u, scale, keep, dropout_p, type


def lora_linear_backward(dy, x, weight, has_bias, a, b, u, scale, keep, dropout_p, type, needs):
    # y = … + u B^T
    du, db, _ = linear_backward(dy, u, b, False, (True, needs[4]))
    # u = s drop(x) A^T
    dropped, da, _ = linear_backward(scale * du, _drop(x, keep, dropout_p), a, False, (needs[0], needs[3]))
    # y = x W^T + b + …
    dx, dweight, dbias = linear_backward(dy, x, _matrix(weight, type, x), has_bias and needs[2], needs)
    if needs[0]:
        dx += dropped if keep is None else dropout_backward(dropped, keep, dropout_p)
    return dx, dweight, dbias, da, db


def _matrix(weight, type, x):
    return weight if type is None else dequantize(weight, type, x.dtype)


def _drop(x, keep, dropout_p):
    return x if keep is None else dropout_forward(x, keep, dropout_p)[0]


lora_linear = operation(lora_linear_forward, lora_linear_backward)
