"""Rotary position embedding in one pass over memory: `rotary.cu`; `tinygrad_llm.ops.rotary` has the definition, and
computes what the kernel does not take: heads not in (B, H, T, D), and the gradients of the angles."""

import math

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.launch import kernel
from tinygrad_llm.ops import rotary as page

SOURCE = "rotary.cu"
THREADS = 128
MOST_BLOCKS = 65535  # in the grid's second direction


def rotary_forward(x, cos, sin, interleaved=False):
    fits = x.ndim == 4 and x.shape[-1] % 2 == 0 and all(_fits(x, angles) for angles in (cos, sin))
    y = _turned(x, cos, sin, interleaved, False) if fits else page.forward(x, cos, sin, interleaved)[0]
    return y, x, cos, sin, interleaved, fits


def rotary_backward(dy, x, cos, sin, interleaved, fits, needs):
    mine = (fits and needs[0], False, False)
    gradients = page.backward(dy, x, cos, sin, interleaved, [n and not m for n, m in zip(needs, mine, strict=True)])
    return (_turned(dy, cos, sin, interleaved, True), *gradients[1:]) if mine[0] else gradients


def _fits(x, angles) -> bool:
    """Of x's dtype, and (T, D), or one such table for all sequences or for each."""
    shapes = [x.shape[2:], (1, 1, *x.shape[2:]), (x.shape[0], 1, *x.shape[2:])]
    return angles.dtype == x.dtype and angles.shape in shapes


def _turned(x, cos, sin, interleaved, back):
    cp = cupy()
    if x.strides[-1] != x.itemsize:
        x = cp.ascontiguousarray(x)
    cos, sin = cp.ascontiguousarray(cos), cp.ascontiguousarray(sin)
    y = cp.empty(x.shape, x.dtype)
    if x.size:
        batch, heads, tokens, size = x.shape
        strides = [stride // x.itemsize for stride in x.strides[:3]]
        strides += [tokens * size if angles.size > tokens * size else 0 for angles in (cos, sin)]
        packs = math.ceil((size if interleaved else size // 2) * x.itemsize / 16)
        grid = (-(-tokens * packs // THREADS), min(batch * heads, MOST_BLOCKS))
        shape, flags = map(np.int32, x.shape), (np.int32(interleaved), np.int32(back))
        args = (x, cos, sin, y, *shape, *map(np.int64, strides), *flags)
        kernel(SOURCE, "rotary_turn", x.dtype)(grid, (THREADS,), args)
    return y
