"""The head and its loss in chunks: `tinygrad_llm.ops.linear_cross_entropy` has the definition and the derivation.

As Numba's, the forward makes the gradients while it has a chunk's logits, as if dy were 1, where they are wanted.
"""

import torch

from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.torch.cross_entropy import logits_gradient, losses
from tinygrad_llm.kernels.torch.tensors import on_tensors, tensor
from tinygrad_llm.ops.linear_cross_entropy import chunks


@on_tensors
def linear_cross_entropy_forward(
    h, weight, targets, ignore_index=-100, reduction="mean", label_smoothing=0.0, needs=(False, False)
):
    if reduction == "none" or label_smoothing:
        raise Unsupported("a loss for each row, nor label smoothing")
    wide = torch.promote_types(h.dtype, torch.float32)  # halves' logits and losses are float32's
    # Each chunk's loss is a sum, times dy: 1, or in a mean one over the number of targets that count.
    dy = 1 / (targets != ignore_index).sum().to(wide) if reduction == "mean" else h.new_ones((), dtype=wide)
    loss = h.new_zeros((), dtype=wide)
    dh = torch.empty_like(h) if needs[0] else None
    dweight = torch.zeros_like(weight) if needs[1] else None
    for rows in chunks(len(h), len(weight)):
        rows = 0, rows.start, rows.stop - rows.start
        h_rows = h.narrow(*rows)
        total, *saved = losses((h_rows @ weight.T).to(wide), targets.narrow(*rows), None, ignore_index, "sum")
        loss += total
        if any(needs[:2]):
            dx = logits_gradient(dy, *saved).to(h.dtype)
        if needs[0]:
            torch.mm(dx, weight, out=dh.narrow(*rows))
        if needs[1]:
            dweight.addmm_(dx.T, h_rows)
    return (loss * dy).to(h.dtype), (dh, dweight)


@on_tensors
def linear_cross_entropy_backward(dy, gradients, out):
    return tuple(None if x is None else _scaled(x, dy, *place) for x, place in zip(gradients, out, strict=False))


def _scaled(x, factor, out, add):
    """x times factor, in a tensor of its own, or written or added to the array `out`, and then `out` itself."""
    if out is None:
        return x * factor
    place = tensor(out) if add else tensor(out).zero_()
    place.addcmul_(x, factor)
    return out
