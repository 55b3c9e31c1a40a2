"""Dropout's mask on all threads, vector by vector: `tinygrad_llm.random` has the definition (Salmon et al. 2011)."""

import math

import numpy as np

from tinygrad_llm.kernels.numba.common import helper
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.memory import empty
from tinygrad_llm.random import LOW, MULTIPLIERS, WEYL

M0, M1 = map(np.uint64, MULTIPLIERS)
W0, W1 = map(np.uint64, WEYL)
LOW, HALF, UNUSED = np.uint64(LOW), np.uint64(32), np.uint64(8)


def philox_keep(like, seed, shape, threshold):
    size = math.prod(shape)
    keep = empty((-(-size // 4),), np.dtype(np.uint32))  # four booleans of a byte in each
    _keep(keep, np.uint64(seed), np.uint64(threshold))
    return keep.view(bool)[:size].reshape(shape)


@leaf
def _keep(part, parts, keep, seed, threshold):
    for i in range(keep.size * part // parts, keep.size * (part + 1) // parts):
        k0, k1 = seed & LOW, seed >> HALF
        c0, c1, c2, c3 = np.uint64(i) & LOW, np.uint64(i) >> HALF, np.uint64(0), np.uint64(0)
        for _ in range(10):
            a, b = c0 * M0, c2 * M1
            c0, c1, c2, c3 = (b >> HALF) ^ c1 ^ k0, b & LOW, (a >> HALF) ^ c3 ^ k1, a & LOW
            k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
        four = _byte(c0, threshold, 0) | _byte(c1, threshold, 1) | _byte(c2, threshold, 2) | _byte(c3, threshold, 3)
        keep[i] = four


@helper
def _byte(word, threshold, place):
    return np.uint32(word >> UNUSED >= threshold) << np.uint32(8 * place)
