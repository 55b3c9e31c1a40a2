"""A file to begin a kernel with: it says what is to be computed, by which names, and what is still to be written."""

import inspect
import re
from pathlib import Path
from typing import Literal

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.kernels.cuda.emulator.build import translate
from tinygrad_llm.lab.source import CUDA, operation_of
from tinygrad_llm.verification import operations

HEAD = """\
// {operation}: {title}
//
// The page tinygrad_llm/ops/{operation}.py has the definition and the derivation. Check this file as you go:
//
//     tinygrad-llm kernel check {file}
//
// `scalar` is the storage type: float, __half or __nv_bfloat16. Compute in float: to_float(x), from_float<scalar>(v).
// common.cuh has sums over a warp and a block, and packs of 16 bytes, which one instruction loads.
"""

SKELETON = """
{signature} {{
  // TODO: write {name}. There may be more to do than there are threads: begin at blockIdx.x * blockDim.x + threadIdx.x
  // and go on by gridDim.x * blockDim.x until all is done.
}}
"""

OWN_KERNEL = """#include "common.cuh"

// An example, element by element: y = x. TODO: write what {operation} computes, and launch it in {stem}.py.
extern "C" __global__ void {operation}_example(const scalar* x, scalar* y, int size) {{
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x)
    y[i] = from_float<scalar>(to_float(x[i]));
}}
"""

WRAPPER = '''\
"""{operation} on the GPU: the functions of its page, which allocate and launch the kernels of {stem}.cu.

They take device arrays (CuPy's) and return such; what the forward returns after y, the backward gets after dy. Both are
the page's own for now, in CuPy's functions: TODO: replace them, one at a time, by kernels of yours.
"""

from pathlib import Path

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.launch import kernel
from tinygrad_llm.ops import {operation} as page

SOURCE = Path(__file__).with_suffix(".cu")


def {operation}_forward{forward}:
    return page.forward({forward_names})


def {operation}_backward{backward}:
    return page.backward({backward_names})


def example(x):
    """How a kernel is launched: grid, block and arguments, numbers as NumPy's of the kernel's types."""
    y = cupy().empty(x.shape, x.dtype)
    run = kernel(SOURCE, "{operation}_example", x.dtype)
    run((-(-x.size // 256),), (256,), (cupy().ascontiguousarray(x), y, np.int32(x.size)))
    return y
'''

PYTHON = '''\
"""{operation}: {title}

A kernel to begin with: the functions of the page tinygrad_llm/ops/{operation}.py as they are. Make them faster (with
`@numba.njit`, say), and check this file as you go:

    tinygrad-llm kernel check {file}
    tinygrad-llm kernel race {file}
"""

'''


def new(operation: str, out: str | Path | None = None, language: Literal["cuda", "python"] = "cuda") -> list[Path]:
    """Write a file to begin a kernel of this operation with, and its wrapper where it needs one.

    CUDA: the plainest version there is, which works, or the entry points with empty bodies, or, of an operation that
    has no CUDA kernel yet, an example and a wrapper. Python: the page's functions.

    `out` is OPERATION.cu or .py unless given. Returns the paths. Raises UserError for an unknown operation, and where a
    file is there already.
    """
    suffix = {"cuda": ".cu", "python": ".py"}[language]
    path = Path(out or f"{operation}{suffix}")
    operation = operation_of(path, operation)
    if path.suffix != suffix:
        raise UserError(f"{path} must end in {suffix}: it will be a kernel in {language}")
    page = operations()[operation]
    facts = {"operation": operation, "file": path, "stem": path.stem, "title": inspect.getdoc(page).splitlines()[0]}
    if language == "python":
        return _write({path: PYTHON.format(**facts) + _page(page)})
    original, plainest = CUDA / f"{operation}.cu", CUDA / "versions" / f"{operation}_1.cu"
    head = HEAD.format(**facts)
    if plainest.is_file():
        code = plainest.read_text()
        return _write({path: head + "//\n// It begins as the plainest version, which works:\n//\n" + code})
    if original.is_file():
        text = original.read_text()
        kernels, _ = translate(text, original.name)
        skeletons = (SKELETON.format(name=k, signature=_signature(text, k)) for k in kernels)
        return _write({path: head + _before(text) + "".join(skeletons)})
    for which in ("forward", "backward"):
        function = inspect.signature(getattr(page, which))
        facts |= {which: function, f"{which}_names": ", ".join(map(_passed, function.parameters.values()))}
    return _write({path: head + OWN_KERNEL.format(**facts), path.with_suffix(".py"): WRAPPER.format(**facts)})


def _write(files: dict[Path, str]) -> list[Path]:
    for path in files:
        if path.exists():
            raise UserError(f"{path} is there already: give another name with --out")
    for path, text in files.items():
        write_atomic(path, text)
    return list(files)


def _page(page) -> str:
    """The page without its docstring."""
    text = inspect.getsource(inspect.getmodule(page.forward))
    return re.sub(r'\A""".*?"""\s*', "", text, flags=re.DOTALL)


def _before(text: str) -> str:
    """What the signatures need of the lines before the first: includes, macros, constants."""
    lines = text[: text.index('extern "C"')].splitlines(keepends=True)
    return "".join(line for line in lines if re.match(r"\s*(#|constexpr|using)", line))


def _signature(text: str, name: str) -> str:
    """The text of an entry point up to its body."""
    start = text.rindex('extern "C"', 0, text.index(f"{name}("))
    return text[start : text.index("{", start)].rstrip()


def _passed(parameter: inspect.Parameter) -> str:
    return {"VAR_POSITIONAL": "*", "KEYWORD_ONLY": f"{parameter.name}="}.get(parameter.kind.name, "") + parameter.name
