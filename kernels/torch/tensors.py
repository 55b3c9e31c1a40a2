"""Arrays as PyTorch's tensors and back, in the same memory."""

import functools

import numpy as np
import torch

from tinygrad_llm.devices import cupy, on_device


def on_tensors(function):
    """`function` of tensors as one of arrays, which it shares memory with; what is inside of tuples and lists stays.

    So a forward that returns `y, saved` keeps a tuple of tensors for its backward. PyTorch's autograd records nothing.
    """

    @functools.wraps(function)
    def run(*args, **options):
        with torch.no_grad():
            results = function(*map(tensor, args), **{key: tensor(value) for key, value in options.items()})
        return tuple(map(array, results)) if isinstance(results, tuple) else array(results)

    return run


def tensor(x):
    """An array as a tensor in the same memory; anything else as it is.

    What PyTorch cannot see where it lies is copied: axes that run backwards, and arrays that must not be written.
    """
    if isinstance(x, np.ndarray | np.generic):
        x = np.asarray(x)
        return torch.from_numpy(x if x.flags.writeable and min(x.strides, default=0) >= 0 else x.copy())
    return x if torch.is_tensor(x) or not on_device(x) else torch.from_dlpack(x)


def array(x):
    """A tensor as an array in the same memory; anything else as it is."""
    if not torch.is_tensor(x):
        return x
    return cupy().from_dlpack(x) if x.is_cuda else x.numpy()
