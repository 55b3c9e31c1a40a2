"""Dropout's mask as an array, for those who cannot make it in registers: `tinygrad_llm.random` has the definition."""

import math

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.launch import NULL, kernel
from tinygrad_llm.random import Mask

THREADS = 256


def philox_keep(like, seed, shape, threshold):
    keep = cupy().empty(shape, bool)
    quadruples = -(-math.prod(shape) // 4)
    if quadruples:
        args = keep, np.uint64(seed), np.uint32(threshold), np.int64(keep.size)
        kernel("philox.cu", "philox_keep", like.dtype)((-(-quadruples // THREADS),), (THREADS,), args)
    return keep


def mask_arguments(keep, p) -> tuple:
    """What a kernel makes a `Mask` of (see philox.cuh), the booleans or NULL, the seed and the threshold; and the
    factor of what is kept."""
    factor = np.float32(1 if keep is None else 1 / (1 - p) if p < 1 else 0)
    if isinstance(keep, Mask):
        return NULL, np.uint64(keep.seed), np.uint32(keep.threshold), factor
    return NULL if keep is None else cupy().ascontiguousarray(keep), np.uint64(0), np.uint32(0), factor
