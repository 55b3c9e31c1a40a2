"""Cross-entropy from two operators: `tinygrad_llm.ops.cross_entropy` has the definition and the derivation.

Label smoothing and targets that are distributions take the page's own functions.
"""

import torch

from tinygrad_llm.kernels.torch.nll_loss import REDUCTION
from tinygrad_llm.kernels.torch.tensors import on_tensors
from tinygrad_llm.ops import cross_entropy as page

aten = torch.ops.aten


def cross_entropy_forward(logits, targets, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    if label_smoothing or targets.dtype.kind == "f":
        y, *saved = page.forward(logits, targets, weight, ignore_index, reduction, label_smoothing)
        return y, page.backward, saved
    y, saved = _forward(logits, targets, weight, ignore_index, reduction)
    return y, _backward, saved


def cross_entropy_backward(dy, backward, saved):
    return backward(dy, *saved)


@on_tensors
def _forward(logits, targets, weight, ignore_index, reduction):
    y, *saved = losses(logits, targets, weight, ignore_index, reduction)
    return y, saved


@on_tensors
def _backward(dy, *saved):
    return logits_gradient(dy, *saved)


def losses(logits, targets, weight, ignore_index, reduction):
    """The loss of logits (N, C), and what `logits_gradient` wants: tensors."""
    logp = aten._log_softmax(logits, -1, False)
    settings = targets.long(), weight, REDUCTION[reduction], ignore_index
    loss, total_weight = aten.nll_loss_forward(logp, *settings)
    return loss, logp, settings, total_weight


def logits_gradient(dy, logp, settings, total_weight):
    dlogp = aten.nll_loss_backward(dy, logp, *settings, total_weight)
    return aten._log_softmax_backward_data(dlogp, logp, -1, logp.dtype)
