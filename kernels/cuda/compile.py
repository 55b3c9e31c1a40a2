"""What NVIDIA's compiler makes of the kernels, which it tells without a GPU.

`python -m tinygrad_llm.kernels.cuda.compile` writes it to docs/kernels.md.

Every kernel is compiled with NVRTC, as CuPy does, for every architecture. Registers bound how many threads run at
once; spilled registers and a stack live in slow memory, and no kernel of ours has them. The machine code itself, as
nvdisasm prints it, shows whether 16 bytes move at once and whether tensor cores are used.
"""

import contextlib
import functools
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.kernels.cuda import DTYPES
from tinygrad_llm.kernels.cuda.emulator.build import cache_folder, cuda_headers, in_wheels
from tinygrad_llm.kernels.cuda.launch import FOLDER, options, source

ARCHITECTURES = {"sm_75": "T4, RTX 20", "sm_80": "A100", "sm_90": "H100", "sm_100": "B200"}

RESOURCES = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stored>\d+) bytes spill stores, "
    r"(?P<loaded>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)
CODE_OF_KERNEL = re.compile(r"^\.text\.(\w+):$(.*?)(?=^\.text\.|\Z)", re.MULTILINE | re.DOTALL)
VECTOR_ACCESS = re.compile(r"\b(?:LDG|STG|LD|ST)\.E(?:\.\w+)*\.128\b")
TENSOR_INSTRUCTION = re.compile(r"\b[A-Z]*MMA\.")

# With what a file is compiled, if with anything: of what its wrapper asks for, the usual and the most demanding.
ATTENTION = [{"WIDTH": 64}, {"WIDTH": 128}, {"WIDTH": 128, "DROPOUT": 1}]
CONSTANTS = {"attention.cu": ATTENTION, "attention_mma.cu": ATTENTION}


class StaticAssertFailed(UserError):
    """A kernel is not for this architecture or storage type, as its source says."""


@dataclass(frozen=True)
class Figures:
    """What one kernel needs: registers of a thread, bytes of static shared memory of a block, bytes of stack of a
    thread, and bytes of registers spilled to it and back."""

    registers: int
    shared: int
    stack: int
    spills: int


def files() -> list[Path]:
    """The source files of the package's kernels."""
    return sorted(FOLDER.glob("*.cu")) + sorted(FOLDER.glob("versions/*.cu"))


def figures(file: Path, dtype: str, architecture: str, **constants: int) -> dict[str, Figures]:
    """The figures of a file's kernels, by their names.

    Raises StaticAssertFailed where they are not for this dtype or architecture, UserError where they do not compile.
    """
    what = file.name, source(file), options(dtype, **constants), architecture
    found = _kept("figures", lambda: _figures(_compile(*what)[1]), what)
    return {kernel: Figures(**values) for kernel, values in found.items()}


def instructions(file: Path, dtype: str, architecture: str, **constants: int) -> dict[str, dict[str, int]]:
    """How many of a kernel's machine instructions move 16 bytes from or to the GPU's memory ("vector") and how many
    use tensor cores ("tensor"), by the kernels' names."""
    what = file.name, source(file), options(dtype, **constants), architecture
    return _kept("instructions", lambda: _instructions(_compile(*what)[0]), what)


def nvrtc_version() -> str:
    """The compiler's version; UserError where it is not installed."""
    return ".".join(map(str, _nvrtc().nvrtcVersion()[1:]))


def table() -> str:
    """docs/kernels.md: every kernel on every architecture."""
    head = ["file", "kernel", *(f"{name} ({card})" for name, card in ARCHITECTURES.items())]
    head += ["shared memory", "stack, spills", "16-byte accesses", "tensor-core instructions"]
    rows = [row for file in files() for constants in CONSTANTS.get(file.name, [{}]) for row in _rows(file, constants)]
    lines = [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]]
    return HEADER.format(version=nvrtc_version()) + "\n".join(lines) + "\n"


HEADER = """# CUDA kernels

Compiled for these architectures by NVRTC {version} and executed on an emulator; not yet timed on a GPU. Made by
`python -m tinygrad_llm.kernels.cuda.compile`; a test fails where a register is spilled or a stack is needed.

Under an architecture stand the registers of a thread, stored as float32 / float16 / bfloat16 (one number where all are
the same, – where the kernel is not for them). Shared memory is in bytes of a block, without what a launch adds; stack
and spills are in bytes of a thread, the largest there are. The last two columns count instructions in the machine code
for sm_80: those that move 16 bytes from or to the GPU's memory, and those of tensor cores.

"""


def _rows(file: Path, constants: dict[str, int]) -> list[list[str]]:
    compiled = {dtype: {} for dtype in DTYPES}  # dtype -> architecture -> the file's kernels
    for dtype, of_dtype in compiled.items():
        for architecture in ARCHITECTURES:
            with contextlib.suppress(StaticAssertFailed):
                of_dtype[architecture] = figures(file, dtype, architecture, **constants)
    code = {dtype: instructions(file, dtype, "sm_80", **constants) for dtype in DTYPES if "sm_80" in compiled[dtype]}
    all_of_them = [found for of_dtype in compiled.values() for found in of_dtype.values()]
    rows = []
    for kernel in all_of_them[0]:
        row = [str(file.relative_to(FOLDER)) + "".join(f", {name} {n}" for name, n in constants.items()), f"`{kernel}`"]
        for architecture in ARCHITECTURES:
            found = [of[architecture][kernel].registers if architecture in of else None for of in compiled.values()]
            row.append(_cell(found))
        shared = [max(found[kernel].shared for found in of.values()) if of else None for of in compiled.values()]
        row.append(_cell(shared))
        row.append(", ".join(str(max(getattr(of[kernel], what) for of in all_of_them)) for what in ("stack", "spills")))
        for kind in ("vector", "tensor"):
            row.append(_cell([code[dtype][kernel][kind] if dtype in code else None for dtype in DTYPES]))
        rows.append(row)
    return rows


def _cell(values: list[int | None]) -> str:
    texts = ["–" if value is None else str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _kept(kind: str, make: Callable[[], dict], what: tuple) -> dict:
    """What `make` returns, kept in the user's cache under all that it depends on."""
    key = hashlib.sha256(repr((nvrtc_version(), *what)).encode()).hexdigest()[:32]
    path = cache_folder() / f"{Path(what[0]).stem}-{key}.{kind}.json"
    if not path.exists():
        write_atomic(path, json.dumps(make()))
    return json.loads(path.read_text())


@functools.lru_cache(len(DTYPES))  # of the same, figures and instructions are asked for
def _compile(name: str, text: str, options: tuple[str, ...], architecture: str) -> tuple[bytes, str]:
    """The machine code, and what the compiler said."""
    nvrtc = _nvrtc()
    arguments = [*options, f"--gpu-architecture={architecture}", f"-I{cuda_headers()}", "--ptxas-options=-v"]
    _, program = nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], [])
    (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), [argument.encode() for argument in arguments])
    log = _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode().strip("\0")
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        errors = [line for line in log.splitlines() if "error" in line or "fatal" in line]
        error = StaticAssertFailed if "static assertion failed" in log else UserError
        raise error(f"{name} does not compile for {architecture}, {options[1]}: {(errors or [log])[0]}")
    return _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log


def _nvrtc():
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise UserError("NVIDIA's compiler is not installed: pip install 'tinygrad-llm[lab]'") from error
    return nvrtc


def _bytes(size, get, program) -> bytes:
    _, length = size(program)
    buffer = bytes(length)
    get(program, buffer)
    return buffer


def _figures(log: str) -> dict[str, dict[str, int]]:
    return {
        found["kernel"]: asdict(
            Figures(
                registers=int(found["registers"]),
                shared=int(found["shared"] or 0),
                stack=int(found["stack"]),
                spills=int(found["stored"]) + int(found["loaded"]),
            )
        )
        for found in RESOURCES.finditer(log)
    }


def _instructions(code: bytes) -> dict[str, dict[str, int]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([_disassembler(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    return {
        kernel: {"vector": len(VECTOR_ACCESS.findall(body)), "tensor": len(TENSOR_INSTRUCTION.findall(body))}
        for kernel, body in CODE_OF_KERNEL.findall(text)
    }


def _disassembler() -> Path:
    programs = in_wheels("bin/nvdisasm")
    if not programs:
        raise UserError("NVIDIA's disassembler is not installed: pip install 'tinygrad-llm[lab]'")
    return programs[0]


def main() -> None:
    docs = FOLDER.parents[1] / "docs"
    if not docs.is_dir():
        raise UserError(f"there is no folder {docs}: the table is made in a checkout of the source")
    write_atomic(docs / "kernels.md", table())


if __name__ == "__main__":
    main()
