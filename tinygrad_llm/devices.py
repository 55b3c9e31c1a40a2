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
import os
import re
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from tinygrad_llm.errors import UserError

OLDEST = 75  # compute capability 7.5, Turing: the first whose tensor cores the kernels are compiled for

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


def to_device(x: np.ndarray, device: str) -> np.ndarray:
    """The array on this device: itself if it is there, else a copy. A GPU named becomes the current one.

    Raises UserError for an unknown device, and what `cupy` raises.
    """
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if not found:
        raise UserError(f"no device {device!r}: there are cpu, cuda, and cuda:1 and so on for further GPUs")
    if device == "cpu":
        return x.get() if on_device(x) else x
    cp, number = cupy(), int(found[1] or 0)
    if number >= cp.cuda.runtime.getDeviceCount():
        raise UserError(f"no device {device!r}: there are {cp.cuda.runtime.getDeviceCount()} GPUs, from cuda:0 on")
    cp.cuda.Device(number).use()
    return cp.asarray(x)
