"""What broadcasting does to gradients."""

import numpy as np


def unbroadcast(dy: np.ndarray, x) -> np.ndarray:
    """The gradient with respect to x of a result that x was broadcast to, from the gradient dy of that result.

    Broadcasting copies an element, y_k = x for every copy k, so dL/dx = sum_k dL/dy_k: the sum over every axis that x
    did not have, and over those where it had one element. x is an array or a number.
    """
    shape = np.shape(x)
    if dy.shape == shape:
        return dy
    dy = dy.sum(axis=tuple(range(dy.ndim - len(shape))))
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and dy.shape[axis] != 1)
    return dy.sum(axis=axes, keepdims=True) if axes else dy


def keep_axes(y: np.ndarray, shape: tuple[int, ...], dim) -> np.ndarray:
    """The reduction y of an array of this shape over the axes `dim`, each back in its place as an axis of size one."""
    dims = range(len(shape)) if dim is None else np.atleast_1d(dim) % max(len(shape), 1)
    return np.reshape(y, [1 if axis in dims else size for axis, size in enumerate(shape)])
