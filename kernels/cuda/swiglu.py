"""SwiGLU in one pass over memory, also with biases to add to its inputs: `swiglu.cu`; `tinygrad_llm.ops.swiglu` has the
definition."""

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.column_sums import add_parts
from tinygrad_llm.kernels.cuda.elements import alike, launch_elements, launch_tiles

SOURCE = "swiglu.cu"


def swiglu_forward(gate, up):
    gate, up = alike(gate, up)
    y = cupy().empty_like(gate)
    launch_elements(SOURCE, "swiglu_forward", gate, up, y)
    return y, gate, up


def swiglu_backward(dy, gate, up):
    gate, dy = alike(gate, dy)
    dgate, dup = cupy().empty_like(gate), cupy().empty_like(up)
    launch_elements(SOURCE, "swiglu_backward", dy, gate, up, dgate, dup)
    return dgate, dup


def bias_swiglu_forward(gate, gate_bias, up, up_bias):
    """y = swiglu(gate + gate_bias, up + up_bias): the end of two linear layers; biases (F,) or None.

    No model of ours calls it: where Llama has biases (`mlp_bias`), its linear layers add them.
    """
    gate, gate_bias, up, up_bias = alike(gate, gate_bias, up, up_bias)
    y = cupy().empty_like(gate)
    launch_tiles(SOURCE, "bias_swiglu_forward", gate, (gate, gate_bias, up, up_bias, y))
    return y


def bias_swiglu_backward(dy, gate, gate_bias, up, up_bias):
    """dgate, dgate_bias, dup, dup_bias; a bias that is None has None."""
    gate, gate_bias, up, up_bias, dy = alike(gate, gate_bias, up, up_bias, dy)
    dgate, dup = cupy().empty_like(gate), cupy().empty_like(up)
    arrays = (dy, gate, gate_bias, up, up_bias, dgate, dup)
    parts = launch_tiles(SOURCE, "bias_swiglu_backward", gate, arrays, sums=2)
    dgate_bias, dup_bias = add_parts(parts, gate.dtype, gate_bias is not None, up_bias is not None)
    return dgate, dgate_bias, dup, dup_bias
