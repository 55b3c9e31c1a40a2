"""Matrix product: z = x y, over the last two axes, the axes before them broadcast.

    z_ij = sum_k x_ik y_kj, so dx_ik = sum_j dz_ij y_kj and dy_kj = sum_i x_ik dz_ij, as matrices

        dx = dz y^T,  dy = x^T dz,

summed over what was broadcast. A one-dimensional x is a row and a one-dimensional y a column, whose axis of size one
the result does not have.

Shapes: x (..., N, K) or (K,), y (..., K, M) or (K,), z (..., N, M), without N for a row x and without M for a column y.
"""

import numpy as np

from tinygrad_llm.autograd import operation
from tinygrad_llm.ops.broadcasting import unbroadcast


def matmul_forward(x, y):
    return np.matmul(x, y), x, y


def matmul_backward(dz, x, y, needs):
    row = x[None, :] if x.ndim == 1 else x
    column = y[:, None] if y.ndim == 1 else y
    if y.ndim == 1:
        dz = dz[..., None]  # (..., N, 1)
    if x.ndim == 1:
        dz = dz[..., None, :]  # (..., 1, M)
    dx = unbroadcast(dz @ column.swapaxes(-1, -2), row).reshape(x.shape) if needs[0] else None
    dy = unbroadcast(row.swapaxes(-1, -2) @ dz, column).reshape(y.shape) if needs[1] else None
    return dx, dy


matmul = operation(matmul_forward, matmul_backward)
