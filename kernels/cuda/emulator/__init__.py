"""CUDA kernels on the CPU: the very source of a .cu file, with one fiber for every CUDA thread.

What a kernel computes is checked this way without a GPU, and more than a GPU would check: barriers that not all
threads reach, shuffles from lanes that do not take part, shared memory that nobody wrote, launches whose arguments do
not fit. Blocks and threads run in any order that is asked for. Under a sanitizer (see `sanitize`) races and overruns
are found too. It says nothing of speed.
"""

from tinygrad_llm.kernels.cuda.emulator import sanitize
from tinygrad_llm.kernels.cuda.emulator.build import build
from tinygrad_llm.kernels.cuda.emulator.library import Function, KernelError, Library, order

__all__ = ["Function", "KernelError", "Library", "build", "order", "sanitize"]
