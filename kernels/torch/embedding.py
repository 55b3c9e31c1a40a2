"""Embedding: `tinygrad_llm.ops.embedding` has the definition. On a GPU the backward sorts the ids: no atomics."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def embedding_forward(weight, ids, padding_idx=None):
    return aten.embedding(weight, ids), (ids, len(weight), padding_idx)


@on_tensors
def embedding_backward(dy, saved):
    ids, rows, padding_idx = saved
    return aten.embedding_dense_backward(dy, ids, rows, -1 if padding_idx is None else padding_idx % rows, False)
