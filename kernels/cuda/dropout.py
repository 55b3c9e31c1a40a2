"""Dropout whose mask is made in registers: `dropout.cu`; `tinygrad_llm.ops.dropout` has the definition."""

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.elements import alike, launch_elements
from tinygrad_llm.kernels.cuda.philox import mask_arguments

SOURCE = "dropout.cu"


def dropout_forward(x, keep, p):
    return _dropped(x, keep, p), keep, p


def dropout_backward(dy, keep, p):
    return _dropped(dy, keep, p)


def _dropped(x, keep, p):
    (x,) = alike(x)
    y = cupy().empty_like(x)
    launch_elements(SOURCE, "dropout", x, y, scalars=mask_arguments(keep, p))
    return y
