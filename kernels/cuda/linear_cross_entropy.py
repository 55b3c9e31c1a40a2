"""The head and its loss in chunks: `tinygrad_llm.ops.linear_cross_entropy` has the definition and the derivation.

The products are cuBLAS's, a chunk of rows at a time. `cross_entropy.cu` makes each row's loss and, over its logits,
their gradient while the row is at hand, so that logits are read once and written once. As if dy were 1: the backward
multiplies by it, and by the mean's divisor, which never come to the host. Until then the gradients are sums in float32.
"""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.cuda.cross_entropy import losses_in_place, reduced
from tinygrad_llm.kernels.cuda.elements import alike, launch_elements
from tinygrad_llm.kernels.cuda.launch import NULL
from tinygrad_llm.kernels.cuda.product import product
from tinygrad_llm.ops.linear_cross_entropy import chunks

SOURCE = "linear_cross_entropy.cu"


def linear_cross_entropy_forward(
    h, weight, targets, ignore_index=-100, reduction="mean", label_smoothing=0.0, needs=(False, False)
):
    if reduction == "none":
        raise Unsupported("a loss for each row")
    if weight.dtype != h.dtype:
        raise Unsupported(f"{h.dtype} with a weight of {weight.dtype}")
    cp, (h, weight) = cupy(), alike(h, weight)
    (targets,) = alike(targets.astype(np.int64, copy=False))
    losses = cp.zeros(len(h), np.float32)
    dh = cp.empty(h.shape, np.float32) if needs[0] else None
    dweight = cp.zeros(weight.shape, np.float32) if needs[1] else None
    every = chunks(len(h), len(weight))
    logits = cp.empty((every[0].stop if every else 0, len(weight)), h.dtype)
    for rows in every:
        x = product(h[rows], weight.T, logits[: rows.stop - rows.start])
        losses_in_place(x, targets[rows], ignore_index, label_smoothing, losses[rows], any(needs[:2]))
        if needs[0]:
            product(x, weight, dh[rows])
        if needs[1]:
            product(x.T, h[rows], dweight, add=rows.start > 0)
    y, divisor = reduced(losses, targets, ignore_index, reduction)
    return y.astype(h.dtype), dh, dweight, divisor, h.dtype


def linear_cross_entropy_backward(dy, dh, dweight, divisor, dtype, out):
    (dy,) = alike(dy.astype(np.float32))
    return tuple(
        None if x is None else _scaled(x, dy, divisor, dtype, *place)
        for x, place in zip((dh, dweight), out, strict=False)
    )


def _scaled(x, dy, divisor, dtype, out, add):
    """x dy / divisor, in an array of its own, or written or added to `out`."""
    y = cupy().empty(x.shape, dtype) if out is None else out
    arrays = y, x, dy, NULL if divisor is None else divisor
    launch_elements(SOURCE, "scale_gradient", *arrays, scalars=(np.int32(add),))
    return y
