"""Kernels from their source: compiled by CuPy for this device at first use, once per storage dtype and constants."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.errors import UserError

FOLDER = Path(__file__).parent
NULL = np.uintp(0)  # what a kernel gets for an array that is absent
SCALARS = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
SHARED_UNASKED = 48 * 1024  # a kernel gets more of it only when told
QUOTED_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)".*$', re.MULTILINE)


_instead: dict[Path, tuple[Path, set]] = {}


@contextlib.contextmanager
def instead(file: str | Path, other: Path) -> Iterator[set[tuple[str, str]]]:
    """Inside this block `other`, as it is now, is compiled wherever the kernels of `file` are asked for.

    Yields a set that gets the name and the dtype of each that is.
    """
    place, asked = (FOLDER / file).resolve(), set()
    _instead[place] = other.resolve(), asked
    _kernel.cache_clear()  # `other` may have been another text before
    _module.cache_clear()
    try:
        yield asked
    finally:
        del _instead[place]


def kernel(file: str | Path, name: str, dtype, **constants: int) -> Callable:
    """The kernel `name` of a .cu file (a path, or one in this folder such as "layernorm.cu") for arrays of `dtype`,
    compiled with `constants`, such as WIDTH=64, defined.

    It is called as `kernel(grid, block, args, shared_mem=0)`: arrays of the device, NumPy scalars of the very types
    of the kernel's parameters, `NULL` for an array that is absent. Raises UserError for a file that is not
    there, does not compile, or has no such kernel.
    """
    if _instead and (found := _instead.get((FOLDER / file).resolve())):
        file, asked = found
        asked.add((name, str(dtype)))
    return _kernel(cupy(), str(file), name, str(dtype), tuple(constants.items()))


@functools.cache
def _kernel(device, file: str, name: str, dtype: str, constants: tuple) -> Callable:
    function = _module(device, file, dtype, constants).get_function(name)

    def launch(grid: tuple, block: tuple, args: tuple, shared_mem: int = 0) -> None:
        if shared_mem > SHARED_UNASKED:
            function.max_dynamic_shared_size_bytes = shared_mem
        function(grid, block, args, shared_mem=shared_mem)

    return launch


@functools.cache
def _module(device, file: str, dtype: str, constants: tuple):
    return device.RawModule(code=source(FOLDER / file), options=options(dtype, **dict(constants)))


def options(dtype: str, **constants: int) -> tuple[str, ...]:
    """What NVRTC is told, here and when the table of the kernels is made."""
    return ("-std=c++17", f"-DSCALAR={SCALARS[dtype]}", *(f"-D{name}={value}" for name, value in constants.items()))


def source(path: Path) -> str:
    """A .cu file with the files that it includes by a name in quotes in their place, so that compilers' caches, which
    know only this text, know of a change in them; #line keeps the place of every line.
    """
    return _expand(path, set())


def _expand(path: Path, seen: set[Path]) -> str:
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"cannot read the kernel {path}: {error.strerror or error}") from error

    def expand(include: re.Match) -> str:
        beside, ours = path.parent / include[1], FOLDER / include[1]
        file = (beside if beside.is_file() else ours).resolve()
        if file in seen:
            return ""
        seen.add(file)
        line = text.count("\n", 0, include.start()) + 2
        return f'{_expand(file, seen)}\n#line {line} "{path.name}"'

    return f'#line 1 "{path.name}"\n' + QUOTED_INCLUDE.sub(expand, text.replace("#pragma once", ""))
