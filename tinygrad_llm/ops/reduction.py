"""What a loss does with its elements: `reduction` is "none", "mean" or "sum"."""

import numpy as np

from tinygrad_llm.errors import UserError


def reduce(loss: np.ndarray, reduction: str):
    """The elements themselves, their mean or their sum."""
    if reduction == "none":
        return loss
    if reduction == "mean":
        return total(loss) / loss.size
    if reduction == "sum":
        return total(loss)
    raise UserError(f"reduction must be 'none', 'mean' or 'sum', not {reduction!r}")


def total(loss: np.ndarray):
    """The sum, added up in float64, for elements may cancel each other."""
    return loss.sum(dtype=np.float64).astype(loss.dtype)


def reduce_backward(dy, size: int, reduction: str):
    """The gradient of every element, as an array or a number that broadcasts to them: dy, or dy / size for a mean."""
    return dy / size if reduction == "mean" else dy
