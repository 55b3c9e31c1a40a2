"""Where arrays are: in the host's memory, as NumPy's, or on a GPU, as CuPy's.

A device has a name, as in torch: "cpu", "cuda" for the first GPU, "cuda:1" for the second. What computes on arrays asks
for their array module, and the same lines run on both. Without a GPU a stand-in takes CuPy's place, which refuses what
CuPy refuses and runs CUDA kernels on the CPU:

>>> with emulated():
...     x = to_device(np.ones(3), "cuda")
...     array_module(x).exp(x).get()

or the environment variable TINYGRAD_LLM_CUDA=emulator for a whole program.
"""

import contextlib
import functools
import math
import os
import re
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from tinygrad_llm.errors import UserError

OLDEST = 75  # compute capability 7.5, Turing: the first whose tensor cores the kernels are compiled for
DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")

_emulating = os.environ.get("TINYGRAD_LLM_CUDA") == "emulator"


@contextlib.contextmanager
def emulated() -> Iterator[ModuleType]:
    """Inside this block "cuda" is the stand-in: its arrays are the host's, its kernels run on the emulator."""
    global _emulating
    before, _emulating = _emulating, True
    try:
        yield cupy()
    finally:
        _emulating = before


@contextlib.contextmanager
def gpu_or_emulator() -> Iterator[ModuleType]:
    """Inside this block "cuda" is the GPU, or where there is none the stand-in."""
    try:
        module = cupy()
    except UserError:
        with emulated() as module:
            yield module
    else:
        yield module


@functools.cache
def cuda_can_run() -> bool:
    """Whether there is a GPU, or what the emulator needs."""
    from tinygrad_llm.kernels.cuda.emulator.build import check

    with contextlib.suppress(UserError):
        return bool(_real())
    with contextlib.suppress(UserError):
        device_or_dtype("bfloat16")
        check()
        return True
    return False


def emulating() -> bool:
    """Whether "cuda" is the stand-in here."""
    return _emulating


def cupy() -> ModuleType:
    """CuPy, or its stand-in when emulating.

    Raises UserError where CuPy is not installed, where no GPU can be used, and where it is too old for the kernels.
    """
    if _emulating:
        from tinygrad_llm.kernels.cuda.emulator import standin

        return standin
    return _real()


@functools.cache
def _real() -> ModuleType:
    instead = "; TINYGRAD_LLM_CUDA=emulator runs the kernels on the CPU"
    try:
        import cupy
    except ImportError as error:
        raise UserError(
            f"a GPU's arrays are CuPy's, and it is not installed: pip install 'tinygrad-llm[cuda]'{instead}"
        ) from error
    try:
        capability = int(cupy.cuda.Device().compute_capability)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UserError(f"no GPU can be used: {error}; install NVIDIA's driver, or use device cpu{instead}") from None
    if capability < OLDEST:
        raise UserError(
            f"this GPU has compute capability {capability / 10}, and the kernels need {OLDEST / 10} or newer{instead}"
        )
    return cupy


def on_device(x) -> bool:
    """Whether x is an array on a GPU, or the stand-in's."""
    return hasattr(type(x), "__cuda_array_interface__")


def array_module(x) -> ModuleType:
    """NumPy, or for an array on a device CuPy, or its stand-in."""
    return cupy() if on_device(x) else np


def device_of(x) -> str:
    """The name of the device that an array is on."""
    if not on_device(x):
        return "cpu"
    return f"cuda:{x.device.id}" if x.device.id else "cuda"


def asarray(x) -> np.ndarray:
    """x as an array: itself if it is one, on whatever device, else NumPy's."""
    return x if on_device(x) else np.asarray(x)


def device_or_dtype(target) -> tuple[str | None, np.dtype | None]:
    """The one of the two that is meant by a name, or by a dtype. Raises UserError for what is neither."""
    if isinstance(target, str) and DEVICE.fullmatch(target):
        return ("cuda" if target == "cuda:0" else target), None
    try:
        if target == "bfloat16":
            import ml_dtypes  # noqa: F401, which tells NumPy of it
        if target is None:  # which NumPy takes for float64
            raise TypeError
        return None, np.dtype(target)
    except ModuleNotFoundError as error:
        raise UserError("bfloat16 needs ml_dtypes: pip install 'tinygrad-llm[cuda]'") from error
    except TypeError:
        raise UserError(f"{target!r} is neither a dtype nor a device: devices are cpu, cuda, cuda:1, …") from None


def to_device(x: np.ndarray, device: str) -> np.ndarray:
    """The array on this device: itself if it is there, else a copy. A GPU named becomes the current one.

    Raises UserError for an unknown device, and what `cupy` raises.
    """
    if device == "cpu":
        return x.get() if on_device(x) else x
    found = DEVICE.fullmatch(device)
    if not found:
        raise UserError(f"no device {device!r}: there are cpu, cuda, and cuda:1 and so on for further GPUs")
    cp, number = cupy(), int(found[1] or 0)
    if on_device(x) and x.device.id == number:
        return x
    if number >= cp.cuda.runtime.getDeviceCount():
        raise UserError(f"no device {device!r}: there are {cp.cuda.runtime.getDeviceCount()} GPUs, from cuda:0 on")
    cp.cuda.Device(number).use()
    return cp.asarray(x)


def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x), which NumPy lacks: in float64 and slowly from the standard library, or from CuPy on a device."""
    if hasattr(x, "erfc"):  # `symbolic.Symbols`
        return x.erfc()
    if not on_device(x):
        return np.vectorize(math.erfc, otypes="d")(x)
    if _emulating:
        return cupy().erfc(x)
    from cupyx.scipy import special

    return special.erfc(x)
