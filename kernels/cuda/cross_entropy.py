"""Cross-entropy that keeps two numbers a row: `cross_entropy.cu`; `tinygrad_llm.ops.cross_entropy` has the definition.

Nothing waits for the device, so a target that is no class is not an error here: it gives NaN.
"""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels import Unsupported
from tinygrad_llm.kernels.cuda.elements import alike
from tinygrad_llm.kernels.cuda.launch import NULL, kernel
from tinygrad_llm.tensor import floating

SOURCE = "cross_entropy.cu"
PACKS, MOST_THREADS = 4, 1024  # of a thread, and of a block
STATIC = 512  # bytes of shared memory that the kernel has anyway
MOST_SHARED = 97  # cudaDevAttrMaxSharedMemoryPerBlockOptin


def cross_entropy_forward(logits, targets, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    if weight is not None or floating(targets.dtype):
        raise Unsupported("class weights, nor targets that are distributions")
    (x,) = alike(logits)
    (targets,) = alike(targets.astype(np.int64, copy=False))
    losses, highest, totals = cupy().empty((3, len(x)), np.float32)
    settings = settings_of(x, ignore_index, label_smoothing)
    launch("cross_entropy_forward", x, x, targets, losses, highest, totals, *settings)
    y, divisor = reduced(losses, targets, ignore_index, reduction)
    return y.astype(x.dtype), x, targets, highest, totals, settings, divisor


def cross_entropy_backward(dy, x, targets, highest, totals, settings, divisor):
    (dlosses,) = alike(dy.astype(np.float32))
    dx, each = cupy().empty_like(x), np.int32(dy.ndim)
    divisor = NULL if divisor is None else divisor
    launch("cross_entropy_backward", x, dlosses, each, divisor, x, targets, highest, totals, dx, *settings)
    return dx


def losses_in_place(x, targets, ignore_index, label_smoothing, losses, gradient: bool) -> None:
    """Write each row's loss, and with `gradient`, over the logits x (N, C), that of this loss with respect to them."""
    cuda = cupy().cuda
    most = cuda.runtime.deviceGetAttribute(MOST_SHARED, cuda.Device().id) - STATIC
    kept = min(-(-x.shape[1] * x.itemsize // 16), most // 16) if gradient else 0  # packs of 16 bytes
    args = x, targets, losses, *settings_of(x, ignore_index, label_smoothing), np.int32(gradient), np.int32(kept)
    launch("cross_entropy_in_place", x, *args, shared=16 * kept)


def settings_of(x, ignore_index, label_smoothing) -> tuple:
    """What every kernel is told."""
    return np.int32(x.shape[1]), np.int64(ignore_index), np.float32(label_smoothing)


def reduced(losses, targets, ignore_index, reduction):
    """The losses as `reduction` wants them, and what a mean divides by."""
    if reduction == "none":
        return losses, None
    if reduction == "sum":
        return losses.sum(), None
    divisor = (targets != ignore_index).sum().astype(np.float32)
    return losses.sum() / divisor, divisor


def launch(name, x, *args, shared=0) -> None:
    """Launch a kernel with a block for each row of x."""
    if x.size:
        threads = min(32 * -(-x.shape[1] * x.itemsize // (16 * 32 * PACKS)), MOST_THREADS)
        kernel(SOURCE, name, x.dtype)((len(x),), (threads,), args, shared_mem=shared)
