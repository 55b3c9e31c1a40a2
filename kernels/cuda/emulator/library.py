"""A kernel's library on the CPU: launches with the checks that a card does not make, in a chosen order of threads."""

import contextlib
import ctypes
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinygrad_llm.errors import UserError

ORDERS = ("forward", "reverse", "random")
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_THREADS = (1024, 1024, 64)
MOST_SHARED_UNASKED = 48 * 1024
MOST_SHARED = 227 * 1024  # of an H100; an A100 has 163 KB, a T4 64

_order, _seed = "forward", 0


class KernelError(UserError):
    """A kernel did on the emulator what it must not do, or was launched in a way that does not fit it."""


@contextlib.contextmanager
def order(name: str, seed: int = 0) -> Iterator[None]:
    """Run the threads and blocks of the launches inside in this order: "forward", "reverse" or "random" by a seed.

    A correct kernel gives the same results in every order.
    """
    global _order, _seed
    if name not in ORDERS:
        raise UserError(f"no order of threads {name!r}: give one of {', '.join(ORDERS)}")
    before = _order, _seed
    _order, _seed = name, seed
    try:
        yield
    finally:
        _order, _seed = before


class _Launch(ctypes.Structure):
    """runtime.cpp's Launch."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("order", ctypes.c_int),
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("static_shared", ctypes.c_void_p),
        ("static_shared_end", ctypes.c_void_p),
        ("instruction", ctypes.c_uint64),
        ("error", ctypes.c_char * 400),
    ]


class Library:
    """The kernels of one source file, compiled for the emulator."""

    def __init__(self, path: Path, runtime: Path, kernels: tuple[str, ...]):
        self.kernels = kernels
        self.code = ctypes.PyDLL(str(path))  # keeps the interpreter's lock: one launch at a time
        self.path = path
        self.launch = ctypes.PyDLL(str(runtime)).emulator_launch
        self.launch.restype = None
        self.shared = [self.call(f"emulator_shared_{end}", ctypes.c_void_p) for end in ("begin", "end")]
        self.get_function = functools.cache(self.get_function)

    def call(self, name: str, result):
        function = self.code[name]
        function.restype = result
        return function()

    def get_function(self, name: str) -> "Function":
        """The kernel of that name; UserError if there is none."""
        if name not in self.kernels:
            raise UserError(f"there is no kernel {name}: there are {', '.join(self.kernels)}")
        return Function(self, name)

    def place(self, instruction: int) -> str:
        """Where in the source an instruction comes from, and what inlined it: "common.cuh:85 in layernorm.cu:12: "."""
        command = ["addr2line", "-s", "-i", "-e", str(self.path), hex(instruction)]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")
        return " in ".join(line.split(" ")[0] for line in lines if line and "?" not in line) + ": "


class Function:
    """A kernel, called as one of CuPy's: `function(grid, block, args, shared_mem=0)`.

    Arguments are NumPy arrays and NumPy scalars of exactly the kernel's types; `np.uintp(0)` is NULL. Raises
    KernelError for arguments that do not fit, and for what the kernel does wrong.
    """

    def __init__(self, library: Library, name: str):
        self.library = library
        self.name = name
        self.address = ctypes.cast(library.code[f"emulator_call_{name}"], ctypes.c_void_p)
        types = library.call(f"emulator_signature_{name}", ctypes.c_char_p).decode()
        self.types = types.split(",") if types else []
        self.most_threads = library.call(f"emulator_most_threads_{name}", ctypes.c_int)
        self.max_dynamic_shared_size_bytes = MOST_SHARED_UNASKED

    def __call__(self, grid: tuple, block: tuple, args: tuple, shared_mem: int = 0) -> None:
        grid, block = (tuple(map(int, shape)) + (1,) * (3 - len(shape)) for shape in (grid, block))
        self.check_shape(grid, block, shared_mem)
        pointers = self.check_arguments(args)
        arguments = ctypes.cast(pointers, ctypes.c_void_p)
        order, shared = ORDERS.index(_order), self.library.shared
        launch = _Launch(grid, block, shared_mem, _seed, order, self.address, arguments, *shared)
        self.library.launch(ctypes.byref(launch))
        if launch.error:
            place = self.library.place(launch.instruction) if launch.instruction else ""
            raise KernelError(f"{self.name}: {place}{launch.error.decode()}")

    def check_shape(self, grid: tuple, block: tuple, shared_mem: int) -> None:
        if not all(1 <= n <= most for n, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise KernelError(f"{self.name}: a grid of {grid} blocks: there must be 1 to {MOST_BLOCKS}")
        if not all(1 <= n <= most for n, most in zip(block, MOST_THREADS, strict=True)):
            raise KernelError(f"{self.name}: a block of {block} threads: there must be 1 to {MOST_THREADS}")
        if np.prod(block) > self.most_threads:
            raise KernelError(f"{self.name}: a block of {np.prod(block)} threads; it is made for {self.most_threads}")
        most = min(self.max_dynamic_shared_size_bytes, MOST_SHARED)
        if shared_mem > most:
            raise KernelError(f"{self.name}: {shared_mem} bytes of dynamic shared memory; it may have {most}")

    def check_arguments(self, args: tuple) -> ctypes.Array:
        """The addresses of the arguments' values, as cuLaunchKernel takes them."""
        if len(args) != len(self.types):
            raise KernelError(f"{self.name} takes {len(self.types)} arguments, {len(args)} were given")
        values = [self.value(i, arg, expected) for i, (arg, expected) in enumerate(zip(args, self.types, strict=True))]
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(value.ctypes.data for value in values))
        pointers.values = values  # alive as long as their addresses are
        return pointers

    def value(self, i: int, arg, expected: str) -> np.ndarray:
        """The bytes that a kernel's parameter gets: the scalar itself, or an array's address."""
        if expected.endswith("*"):
            element = expected.removeprefix("const ").removesuffix("*")
            if isinstance(arg, np.uintp) and arg == 0:
                return np.array(arg)
            fits = isinstance(arg, np.ndarray) and (arg.dtype.name == element or element in ("void", "struct"))
            if fits and not arg.flags.writeable and not expected.startswith("const "):
                raise KernelError(f"{self.name}: argument {i + 1} is written to, and the array given is read-only")
            if fits:
                return np.array(arg.ctypes.data, np.uintp)
        elif isinstance(arg, np.generic) and arg.dtype.name == expected:
            return np.array(arg)
        given = f"{type(arg).__name__}" + (f" of {arg.dtype}" if isinstance(arg, np.ndarray) else "")
        raise KernelError(f"{self.name}: argument {i + 1} must be {expected}, not {given}")
