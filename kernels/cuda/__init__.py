"""GPU kernels: one CUDA C++ file per operation, and beside it the Python that allocates and launches, through CuPy."""

from tinygrad_llm.devices import on_device

DTYPES = ("float32", "float16", "bfloat16")


def takes(array) -> bool:
    """Whether these kernels compute on this array: one on a CUDA device, of a dtype that they are compiled for."""
    return on_device(array) and array.dtype.name in DTYPES
