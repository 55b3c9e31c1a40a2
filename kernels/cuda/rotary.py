"""Rotary position embedding in one pass over memory: `rotary.cu`; `tinygrad_llm.ops.rotary` has the definition, and the
gradients of the angles, which models have no use for."""

import math

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.cuda.launch import kernel
from tinygrad_llm.ops import rotary as page

SOURCE = "rotary.cu"
THREADS = 128
MOST_BLOCKS = 65535  # in the grid's second direction


def rotary_forward(x, cos, sin, interleaved=False):
    if x.ndim != 4 or x.shape[-1] % 2:
        raise Unsupported(f"heads in an array of shape {x.shape}, which is not (B, H, T, D) with an even D")
    tables = [x.shape[2:], (1, 1, *x.shape[2:]), (x.shape[0], 1, *x.shape[2:])]
    for angles in (cos, sin):
        if angles.dtype != x.dtype or angles.shape not in tables:
            raise Unsupported(f"{angles.dtype} angles of shape {angles.shape} for {x.dtype} heads of {x.shape}")
    return _turned(x, cos, sin, interleaved, False), x, cos, sin, interleaved


def rotary_backward(dy, x, cos, sin, interleaved, needs):
    dx = _turned(dy, cos, sin, interleaved, True) if needs[0] else None
    return dx, *page.backward(dy, x, cos, sin, interleaved, (False, *needs[1:]))[1:]


def _turned(x, cos, sin, interleaved, back):
    cp = cupy()
    if x.strides[-1] != x.itemsize:
        x = cp.ascontiguousarray(x)
    cos, sin, y = cp.ascontiguousarray(cos), cp.ascontiguousarray(sin), cp.empty(x.shape, x.dtype)
    if x.size:
        batch, heads, tokens, size = x.shape
        strides = [stride // x.itemsize for stride in x.strides[:3]]
        strides += [tokens * size if angles.size > tokens * size else 0 for angles in (cos, sin)]
        packs = math.ceil((size if interleaved else size // 2) * x.itemsize / 16)
        grid = (-(-tokens * packs // THREADS), min(batch * heads, MOST_BLOCKS))
        numbers = (*map(np.int32, x.shape), *map(np.int64, strides), np.int32(interleaved), np.int32(back))
        kernel(SOURCE, "rotary_turn", x.dtype)(grid, (THREADS,), (x, cos, sin, y, *numbers))
    return y
