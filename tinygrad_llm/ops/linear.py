"""Linear layer: y = x W^T + b, that is y_o = sum_i x_i W_oi + b_o for every row x.

    dy_o/dx_i = W_oi, so dx = dy W;
    dy_o/dW_oi = x_i, and all rows share W, so dW = dy^T x, a sum over the rows;
    dy_o/db_o = 1, so db is the sum of dy over the rows.

Shapes: x (..., in), weight (out, in), bias (out,) or None, y (..., out).
"""

import math

from tinygrad_llm.autograd import operation


def linear_forward(x, weight, bias=None):
    y = x @ weight.T
    if bias is not None:
        y += bias
    return y, x, weight, bias is not None


def linear_backward(dy, x, weight, has_bias, needs):
    rows_dy, rows_x = rows(dy), rows(x)
    dx = dy @ weight if needs[0] else None
    dweight = rows_dy.T @ rows_x if needs[1] else None
    dbias = rows_dy.sum(axis=0) if has_bias else None
    return dx, dweight, dbias


def rows(x):
    """All the rows as one matrix."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 would not do for rows of no elements


linear = operation(linear_forward, linear_backward)
