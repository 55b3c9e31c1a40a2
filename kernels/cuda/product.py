"""Matrix products by cuBLAS, which sums in float32 whatever the operands' dtype is.

CuPy's own `matmul` always makes a new result; `gemmEx`, which is under it, can also add to one. How exactly float32 is
multiplied is said in `precision`.
"""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.precision import compute_type

ZERO, ONE = np.zeros(1, np.float32), np.ones(1, np.float32)
TYPES = {"float32": "CUDA_R_32F", "float16": "CUDA_R_16F", "bfloat16": "CUDA_R_16BF"}


def product(a, b, out=None, add: bool = False):
    """a (M, K) times b (K, N): (M, N), both of one dtype. Transposed views, and rows of a matrix, are as good as any.

    The result is written to `out`, or with `add` added to it, if that is given: rows without gaps, of the operands'
    dtype or float32.
    """
    cp = cupy()
    out = cp.empty((len(a), b.shape[1]), a.dtype) if out is None else out
    if not a.shape[1] and not add:
        out.fill(0)
    if not a.shape[1] or not out.size:
        return out
    # cuBLAS goes by columns, so it sees the transpose of everything: out^T = b^T a^T.
    (a, turn_a, step_a), (b, turn_b, step_b) = _operand(a), _operand(b)
    kind_a, kind_b, kind = (getattr(cp.cuda.runtime, TYPES[x.dtype.name]) for x in (a, b, out))
    cublas = cp.cuda.cublas
    cublas.gemmEx(
        cp.cuda.device.get_cublas_handle(), turn_b, turn_a, out.shape[1], out.shape[0], a.shape[1],
        ONE.ctypes.data, b.data.ptr, kind_b, step_b, a.data.ptr, kind_a, step_a,
        (ONE if add else ZERO).ctypes.data, out.data.ptr, kind, out.shape[1],
        compute_type() if a.dtype == np.float32 else cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip
    return out


def _operand(x):
    """A matrix that cuBLAS can read, whether it lies transposed in memory, and how far apart its rows then are."""
    for turned, y in enumerate((x, x.T)):
        rows, columns = y.shape
        step = y.strides[0] // y.itemsize if rows > 1 else columns
        if (columns == 1 or y.strides[1] == y.itemsize) and step >= columns:
            return x, turned, max(step, 1)
    return _operand(cupy().ascontiguousarray(x))
