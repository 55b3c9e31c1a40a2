"""Cross-entropy from two operators: `tinygrad_llm.ops.cross_entropy` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.torch.nll_loss import REDUCTION
from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def cross_entropy_forward(logits, targets, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    if label_smoothing or targets.is_floating_point():
        raise Unsupported("label smoothing, nor targets that are distributions")
    y, *saved = losses(logits, targets, weight, ignore_index, reduction)
    return y, saved


@on_tensors
def cross_entropy_backward(dy, saved):
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
