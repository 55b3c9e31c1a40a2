"""The head and its loss in chunks: `tinygrad_llm.ops.linear_cross_entropy` has the definition and the derivation.

The products are `product`'s, a chunk of rows at a time. The softmax and its gradient are the loops of `cross_entropy`,
the gradient written over the logits, so nothing else of their size is ever made.

Where gradients are wanted, the forward makes them while it has a chunk's logits, as if dy were 1: the loss is one
number, so the backward need only multiply them by dy (as in Liger Kernel, Hsu et al. 2024,
https://arxiv.org/abs/2410.10989). That saves the fourth of four products, and costs an array as large as the weight
until then. A loss for each row (`reduction="none"`) takes the page's own functions.
"""

import numpy as np

from tinygrad_llm.kernels.numba.common import constant
from tinygrad_llm.kernels.numba.cross_entropy import count, row_gradients, row_losses, total_loss
from tinygrad_llm.kernels.numba.product import product
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty
from tinygrad_llm.ops import linear_cross_entropy as page
from tinygrad_llm.ops.linear_cross_entropy import chunks
from tinygrad_llm.recording import assign, decided, repeated


def linear_cross_entropy_forward(
    h, weight, targets, ignore_index=-100, reduction="mean", label_smoothing=0.0, needs=(False, False)
):
    if reduction == "none":
        y, *saved = page.forward(h, weight, targets, ignore_index, reduction, label_smoothing)
        return y, page.backward, saved
    divisor = decided(count, targets, ignore_index) if reduction == "mean" else 1
    loss, dloss = empty(h.shape[:1], h.dtype), constant(len(h), 1 / (divisor or np.inf), h.dtype)
    dh = empty(h.shape, h.dtype) if needs[0] else None
    dweight = empty(weight.shape, weight.dtype) if needs[1] else None
    every = chunks(len(h), len(weight))
    logits = empty((every[0].stop if every else 0, len(weight)), h.dtype)
    for rows in every:
        x = product(h[rows], weight.T, logits[: rows.stop - rows.start])
        row_loss, *softmax = row_losses(x, targets[rows], ignore_index, label_smoothing)
        repeated(assign, loss[rows], row_loss)
        if needs[0] or needs[1]:
            row_gradients(dloss[rows], x, targets[rows], ignore_index, *softmax, label_smoothing, x)
        if needs[0]:
            product(x, weight, dh[rows])
        if needs[1]:
            product(x.T, h[rows], dweight, add=rows.start > 0)
    return total_loss(loss, divisor), _backward, (dh, dweight)


def linear_cross_entropy_backward(dy, backward, saved, needs, out):
    return backward(dy, *saved, out if backward is _backward else needs)


def _backward(dy, dh, dweight, out):
    return tuple(None if x is None else _scaled(x, dy, *place) for x, place in zip((dh, dweight), out, strict=False))


def _scaled(x, factor, out, add):
    """x times factor, in an array of its own, or written or added to `out`; x itself where it would be a copy."""
    if out is None and factor == 1:
        return x  # as large as all the embeddings
    out = empty(x.shape, x.dtype) if out is None else out
    _scale(x.reshape(-1), x.dtype.type(factor), out.reshape(-1), add)
    return out


@leaf
def _scale(part, parts, x, factor, y, add):
    mine = slice(x.size * part // parts, x.size * (part + 1) // parts)
    xs, ys = x[mine], y[mine]
    for i in range(xs.size):
        ys[i] = factor * xs[i] + ys[i] if add else factor * xs[i]
