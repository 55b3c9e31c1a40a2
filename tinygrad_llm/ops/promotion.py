"""Which dtype numbers of different kinds have together."""

from collections.abc import Sequence

import numpy as np

from tinygrad_llm.tensor import floating

_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2}  # V is how NumPy sees bfloat16


def promote(*inputs) -> Sequence:
    """The inputs, arrays and numbers, with every array in the dtype of the result, by torch's rule.

    Floating numbers decide over whole ones and those over booleans; among one kind, arrays with axes decide over those
    without, and these over Python's numbers. So neither int64 nor a number widens float32, as it would in NumPy. A
    Python float that decides counts as float32. See https://docs.pytorch.org/docs/stable/tensor_attributes.html.
    """
    dtypes = {x.dtype for x in inputs if hasattr(x, "dtype")}
    if len(dtypes) == 1 and floating(dtypes.pop()):
        return inputs  # as nearly always
    inputs = [x.item() if isinstance(x, np.generic) else x for x in inputs]
    dtypes = [getattr(x, "dtype", None) or np.min_scalar_type(x) for x in inputs]
    ranks = [(_KINDS[dtype.kind], np.ndim(x) > 0, hasattr(x, "dtype")) for x, dtype in zip(inputs, dtypes, strict=True)]
    highest = max(ranks)
    if highest[2]:
        dtype = np.result_type(*(dtype for dtype, rank in zip(dtypes, ranks, strict=True) if rank == highest))
    else:
        dtype = np.dtype((np.bool, np.int64, np.float32)[highest[0]])
    return [x.astype(dtype, copy=False) if hasattr(x, "dtype") else x for x in inputs]
