"""Linear layer whose weight is kept in a few bits a number: y = x W^T + b, where W is made from `blocks`.

A row of W is a row of blocks of 32 numbers, each stored as a small whole number q and, once for the block, as float16
a scale d and for Q4_1 an offset m (the layouts of GGUF files, https://github.com/ggml-org/ggml):

    type  bytes of a block                     W_i          bits a number
    Q8_0  34: d, then q_0 … q_31, each signed  d q_i        8.5
    Q4_0  18: d, then 16 bytes of two q each   d (q_i - 8)  4.5
    Q4_1  20: d, m, then 16 bytes of two       d q_i + m    5

where of two q in byte j, the lower four bits are q_j and the upper four q_{j + 16}.

dx = dy W and db is the sum of dy over the rows, as in `linear`. The blocks have no gradient: whole numbers do not
move by little, so a model on such weights is trained by other weights beside them (LoRA, Hu et al. 2021).

Shapes: x (..., in), blocks (out, in / 32 · bytes of a block) of bytes, bias (out,) or None, y (..., out).
"""

import numpy as np

from tinygrad_llm.autograd import operation

BLOCK = 32  # numbers
BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}  # of a block


def quantized_linear_forward(x, blocks, bias=None, type="Q8_0"):
    y = x @ dequantize(blocks, type, x.dtype).T
    if bias is not None:
        y += bias
    return y, blocks, type, bias is not None


def quantized_linear_backward(dy, blocks, type, has_bias, needs):
    dx = dy @ dequantize(blocks, type, dy.dtype) if needs[0] else None
    dbias = dy.reshape(-1, dy.shape[-1]).sum(axis=0) if has_bias else None
    return dx, None, dbias


def dequantize(blocks, type, dtype=np.float32):
    """The numbers (..., in) of blocks (..., in / 32 · bytes of a block) of this type."""
    parts = blocks.reshape(*blocks.shape[:-1], -1, BYTES[type])
    size = 4 if type == "Q4_1" else 2  # bytes of d and m
    d, *m = np.moveaxis(parts[..., :size].copy().view(np.float16).astype(dtype), -1, 0)[..., None]
    q = parts[..., size:]
    if type == "Q8_0":
        q = q.view(np.int8)
    else:
        q = np.concatenate([q & 15, q >> 4], axis=-1)
    q = q.astype(dtype)
    if type == "Q4_0":
        q -= 8
    w = d * q + m[0] if m else d * q
    return w.reshape(*blocks.shape[:-1], -1)


quantized_linear = operation(quantized_linear_forward, quantized_linear_backward)
