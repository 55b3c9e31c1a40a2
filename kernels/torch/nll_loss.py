"""Negative log-likelihood: `tinygrad_llm.ops.nll_loss` has the definition and the derivation."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten
REDUCTION = {"none": 0, "mean": 1, "sum": 2}  # PyTorch's numbers for them


@on_tensors
def nll_loss_forward(x, targets, weight=None, ignore_index=-100, reduction="mean"):
    settings = targets.long(), weight, REDUCTION[reduction], ignore_index
    loss, total_weight = aten.nll_loss_forward(x, *settings)
    return loss, (x, *settings, total_weight)


@on_tensors
def nll_loss_backward(dy, saved):
    return aten.nll_loss_backward(dy, *saved)
