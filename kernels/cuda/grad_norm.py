"""The norm of the flat gradient and its clip factor, which the host does not wait for: `grad_norm.cu`;
`tinygrad_llm.optim.optimizer` has the definition."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.launch import kernel

THREADS = 256
BLOCKS = 1024  # at most: several for each multiprocessor of any card, and few to add up


def grad_norm_clip(grad, max_norm):
    blocks = min(BLOCKS, -(-grad.nbytes // (16 * THREADS)))
    sums, norm, scale = (cupy().empty(shape, np.float32) for shape in ((blocks,), (), ()))
    kernel("grad_norm.cu", "grad_norm_squares", grad.dtype)((blocks,), (THREADS,), (grad, sums, np.int64(grad.size)))
    args = (sums, norm, scale, np.float32(max_norm), np.int32(blocks))
    kernel("grad_norm.cu", "grad_norm_clip", grad.dtype)((1,), (THREADS,), args)
    return norm, scale
