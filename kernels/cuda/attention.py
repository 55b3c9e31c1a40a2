"""Attention in tiles on a GPU: `tinygrad_llm.ops.attention` has the definition and the derivation.

attention.cu says how, in float32 on any card; attention_mma.cu is the same by tensor cores, for float16 and, from
compute capability 8.0 on, bfloat16. Arrays are read where they stand, if the numbers of a row are side by side.
"""

import math
from typing import NamedTuple

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels import Unsupported, note_fallback
from tinygrad_llm.kernels.cuda.launch import kernel
from tinygrad_llm.kernels.cuda.philox import mask_arguments
from tinygrad_llm.kernels.cuda.precision import AMPERE
from tinygrad_llm.ops import attention as page
from tinygrad_llm.tensor import floating

THREADS = 128
WIDTHS = 32, 64, 128  # of heads, in shared memory


def attention_forward(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    reason = "masks other than the causal one" if attn_mask is not None else declined(q, k, v)
    if reason:
        return by_page(page, reason, q, k, v, attn_mask, keep, dropout_p, is_causal, scale)
    k, v = (x.astype(q.dtype, copy=False) for x in (k, v))
    q, k, v = (x if side_by_side(x) else cupy().ascontiguousarray(x) for x in (q, k, v))
    y = cupy().empty(q.shape, q.dtype)
    settings = Settings.of(q, k, keep, dropout_p, is_causal, scale)
    lse = settings.forward(q, k, v, y)
    return y, _backward, (q, k, v, y, lse, settings)


def attention_backward(dy, backward, saved, needs):
    return backward(dy, *saved, needs)


def _backward(dy, q, k, v, y, lse, settings, needs):
    cp = cupy()
    dy = dy.astype(q.dtype, copy=False)
    dy = dy if side_by_side(dy) else cp.ascontiguousarray(dy)
    dq, dk, dv = (cp.empty(x.shape, x.dtype) for x in (q, k, v))
    settings.backward(dy, q, k, v, y, lse, dq, dk, dv)
    return dq, dk, dv, None


def declined(q, k, v) -> str | None:
    """What the kernels do not take of these arrays, if anything."""
    if q.ndim != 4 or k.shape != v.shape or q.shape[1] % k.shape[1] or not k.size:
        return f"q {q.shape}, k {k.shape} and v {v.shape}"
    return f"heads of {q.shape[-1]} numbers, more than {WIDTHS[-1]}" if q.shape[-1] > WIDTHS[-1] else None


def by_page(page, reason: str, *inputs):
    """The page's forward in float32, since its steps would lose bits in less, and its result in the first's dtype."""
    note_fallback(page.__name__, Unsupported(reason))
    dtypes = [x.dtype if hasattr(x, "dtype") and floating(x.dtype) else None for x in inputs]
    wide = [x.astype(np.float32, copy=False) if dtype else x for x, dtype in zip(inputs, dtypes, strict=True)]
    y, *saved = page.forward(*wide)
    return y.astype(dtypes[0], copy=False), _backward_by_page, (page, saved, dtypes)


def _backward_by_page(dy, page, saved, dtypes, *needs):
    gradients = page.backward(dy.astype(np.float32, copy=False), *saved, *needs)
    several = gradients if isinstance(gradients, tuple) else (gradients,)
    narrow = tuple(x if x is None else x.astype(dtype, copy=False) for x, dtype in zip(several, dtypes, strict=False))
    return narrow if isinstance(gradients, tuple) else narrow[0]


def side_by_side(x) -> bool:
    """Whether the numbers of each row lie without gaps."""
    return x.strides[-1] == x.itemsize and all(stride >= 0 for stride in x.strides)


class Settings(NamedTuple):
    """What forward and backward have in common."""

    heads: int
    kv_heads: int
    mask: tuple  # what dropout keeps, and the factor of it
    dropout: bool
    scale: float
    is_causal: bool
    sizes: tuple[int, int, int]  # T, S, D

    @classmethod
    def of(cls, q, k, keep, dropout_p, is_causal, scale):
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        sizes = q.shape[2], k.shape[2], q.shape[3]
        mask = mask_arguments(keep, dropout_p)
        return cls(q.shape[1], k.shape[1], mask, keep is not None, scale, is_causal, sizes)

    def forward(self, q, k, v, y):
        """Fill y and return lse (B, H, T)."""
        lse = cupy().empty(q.shape[:3], np.float32)
        self.launch("attention_forward", (q, k, v, y), (lse,), self.kv_heads)
        return lse

    def backward(self, dy, q, k, v, y, lse, dq, dk, dv) -> None:
        """Fill dq, dk and dv."""
        delta = cupy().empty_like(lse)
        self.launch("attention_backward_q", (dy, q, k, v, y, dq), (lse, delta), self.kv_heads)
        self.launch("attention_backward_kv", (dy, q, k, v, dk, dv), (lse, delta), self.heads)

    def launch(self, name: str, arrays: tuple, of_rows: tuple, heads: int) -> None:
        """Launch a kernel with a block for so many rows of the last of the arrays."""
        last = arrays[-1]
        width = next(width for width in WIDTHS if last.shape[-1] <= width)
        file, rows = version(last.dtype, width, "backward" in name)
        grid = -(-last.shape[2] // rows), last.shape[1], last.shape[0]
        args = [argument for x in arrays for argument in (x, *(np.int64(s // x.itemsize) for s in x.strides[:3]))]
        options = np.float32(self.scale), np.int32(self.is_causal), np.int32(heads), *map(np.int32, self.sizes)
        if last.size:
            run = kernel(file, name, last.dtype, WIDTH=width, DROPOUT=int(self.dropout))
            run(grid, (THREADS,), (*args, *of_rows, *self.mask, *options))


def version(dtype, width: int, backward: bool) -> tuple[str, int]:
    """The file of the kernels for arrays of this dtype on this card, and how many rows a block of theirs has."""
    if dtype == "float16" or (dtype == "bfloat16" and int(cupy().cuda.Device().compute_capability) >= AMPERE):
        return "attention_mma.cu", 64
    return "attention.cu", 16 if backward and width > 64 else 32
