"""PyTorch's operators as kernels: the explicit forwards and backwards of `aten`, never its autograd.

Chosen by `kernels.use("torch")` alone. On a GPU they bring what NVIDIA's and PyTorch's engineers have tuned: matrix
products, flash attention, the fused AdamW. The same Python runs on the CPU, where it is compared with the definitions.
Some of the operators are private, so that another version of PyTorch may change them: a test pins their schemas.
"""

import numpy as np

from tinygrad_llm.devices import emulating, on_device

DTYPES = ("float32", "float64")
DEVICE_DTYPES = ("float32", "float16", "bfloat16")


def takes(array) -> bool:
    """Whether PyTorch can compute where this array lies: NumPy's arrays, and those of a device that it shares."""
    if isinstance(array, np.ndarray):
        return array.dtype.name in DTYPES
    return on_device(array) and not emulating() and array.dtype.name in DEVICE_DTYPES
