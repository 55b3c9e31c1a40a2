"""GELU in one pass over memory, also of h + bias: `gelu.cu`; `tinygrad_llm.ops.gelu` has the definition."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.column_sums import add_parts
from tinygrad_llm.kernels.cuda.elements import alike, launch_elements, launch_tiles

SOURCE = "gelu.cu"


def gelu_forward(x, approximate="none"):
    (x,) = alike(x)
    y = cupy().empty_like(x)
    launch_elements(SOURCE, "gelu_forward", x, y, scalars=_form(approximate))
    return y, x, approximate


def gelu_backward(dy, x, approximate):
    (dy,) = alike(dy.astype(x.dtype, copy=False))
    dx = cupy().empty_like(x)
    launch_elements(SOURCE, "gelu_backward", dy, x, dx, scalars=_form(approximate))
    return dx


def bias_gelu_forward(h, bias, approximate="none"):
    """a = gelu(h + bias): the end of a linear layer, whose product h (..., F) is; bias (F,) or None."""
    h, bias = alike(h, bias)
    a = cupy().empty_like(h)
    launch_tiles(SOURCE, "bias_gelu_forward", h, (h, bias, a), *_form(approximate))
    return a


def bias_gelu_backward(da, h, bias, approximate="none", again=False):
    """dh, dbias (None without bias), and with `again` a once more, in the same pass; without None."""
    h, da, bias = alike(h, da, bias)
    cp, sums = cupy(), int(bias is not None)
    dh, a = cp.empty_like(h), cp.empty_like(h) if again else None
    arrays = (da, h, bias, dh, a) if sums else (da, h, bias, dh, a, None)
    parts = launch_tiles(SOURCE, "bias_gelu_backward", h, arrays, *_form(approximate), sums=sums)
    return dh, *(add_parts(parts, h.dtype, True) if sums else [None]), a


def _form(approximate: str) -> tuple:
    return (np.int32(approximate == "tanh"),)
