"""AdamW in one pass over the flat buffers: `adamw.cu`; `tinygrad_llm.optim.adamw` has the definition."""

import math

import numpy as np

from tinygrad_llm.devices import cupy, on_device
from tinygrad_llm.kernels.cuda.launch import NULL, kernel

THREADS = 256


def adamw_step(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, scale) -> None:
    """As the page; `scale` may be a number in the device's memory, float32."""
    if not param.size:  # a group without parameters, and a grid without blocks
        return
    if not on_device(scale):
        scale = NULL if scale == 1 else cupy().asarray(np.float32(scale))
    constants = (
        1 - beta1,
        1 - beta2,
        1 - lr * weight_decay,
        lr / (1 - beta1**step),
        1 / math.sqrt(1 - beta2**step),
        eps,
    )
    blocks = -(-param.nbytes // (16 * THREADS))
    args = (param, grad, m, v, scale, *map(np.float32, constants), np.int64(param.size))
    kernel("adamw.cu", "adamw_step", param.dtype)((blocks,), (THREADS,), args)
