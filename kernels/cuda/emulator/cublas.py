"""What stands in for `cupy.cuda.cublas`: the product of matrices at addresses, as cuBLAS counts their columns."""

import ctypes

import ml_dtypes
import numpy as np

DATA_TYPES = {"CUDA_R_32F": 0, "CUDA_R_16F": 2, "CUDA_R_16BF": 14}
DTYPES = {0: np.float32, 2: np.float16, 14: ml_dtypes.bfloat16}
CUBLAS_COMPUTE_32F = 68
FACTORS = {68: np.float32, 74: np.float16, 75: ml_dtypes.bfloat16, 77: "tf32"}  # what a compute type rounds float32 to
CUBLAS_GEMM_DEFAULT = -1


def gemmEx(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType, algo
):
    """C = alpha op(A) op(B) + beta C, summed in float32: op(A) (m, k) and op(B) (k, n), column by column."""
    fast = computeType != CUBLAS_COMPUTE_32F
    if computeType not in FACTORS or Atype != Btype or (fast and (Atype, Ctype) != (0, 0)):
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
    a = _matrix(A, Atype, lda, (k, m) if transa else (m, k))
    b = _matrix(B, Btype, ldb, (n, k) if transb else (k, n))
    c = _matrix(C, Ctype, ldc, (m, n))
    alpha, beta = (_memory(address, np.float32, 1)[0] for address in (alpha, beta))
    a, b = (x.T if turned else x for x, turned in ((a, transa), (b, transb)))
    result = alpha * (_factors(a, computeType) @ _factors(b, computeType))
    c[...] = result + beta * c.astype(np.float32) if beta else result


def _factors(x, computeType):
    """What tensor cores multiply, as float32."""
    x, dtype = x.astype(np.float32), FACTORS[computeType]
    if dtype == "tf32":
        return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)  # 13 bits less, rounded
    return x.astype(dtype).astype(np.float32)


def _matrix(address, kind, step, shape):
    """The matrix (rows, columns) whose columns are `step` numbers apart."""
    rows, columns = shape
    if step < max(1, rows):
        raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE: a leading dimension is too small")
    size = step * (columns - 1) + rows if columns else 0
    memory = _memory(address, DTYPES[kind], size)
    item = memory.itemsize
    return np.lib.stride_tricks.as_strided(memory, shape, (item, step * item))


def _memory(address, dtype, size):
    """So many numbers at an address."""
    bytes_ = (ctypes.c_char * (size * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(bytes_, dtype)
