"""Embedding: y = weight[ids], one row of the table for each token.

    A row that stands at several positions receives the sum of their gradients: dweight[id] = sum_{t: ids_t = id} dy_t.
    An assignment, dweight[ids] = dy or += dy, would keep only the last of them. The row `padding_idx` receives none.

Shapes: weight (V, C), ids (...) of integers in [0, V), y (..., C).
"""

import numpy as np

from tinygrad_llm.autograd import operation


def embedding_forward(weight, ids, padding_idx=None):
    return weight[ids], ids, weight.shape, padding_idx


def embedding_backward(dy, ids, shape, padding_idx):
    dweight = np.zeros(shape, dy.dtype, like=dy)
    np.add.at(dweight, ids, dy)
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


embedding = operation(embedding_forward, embedding_backward)
