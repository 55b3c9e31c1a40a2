"""GPU kernels: one CUDA C++ file per operation, and beside it the Python that allocates and launches, through CuPy."""

DTYPES = ("float32", "float16", "bfloat16")


def takes(array) -> bool:
    """Whether these kernels compute on this array: one on a CUDA device, of a dtype that they are compiled for."""
    from tinygrad_llm.devices import device_of

    return array.dtype.name in DTYPES and device_of(array) == "cuda"
