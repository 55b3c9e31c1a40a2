"""What NVIDIA's compiler makes of the kernels, which it tells without a GPU.

`python -m tinygrad_llm.kernels.cuda.compile` writes it to docs/kernels.md.

Every kernel is compiled with NVRTC, as CuPy does, for every architecture. Registers bound how many threads run at
once; spilled registers and a stack live in slow memory, and no kernel of ours has them. The machine code itself, as
nvdisasm prints it, shows whether 16 bytes move at once and whether tensor cores are used.
"""

import functools
import hashlib
import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.kernels.cuda import DTYPES
from tinygrad_llm.kernels.cuda.emulator.build import cache_folder, cuda_headers
from tinygrad_llm.kernels.cuda.launch import FOLDER, options, source

ARCHITECTURES = {"sm_75": "T4, RTX 20", "sm_80": "A100", "sm_90": "H100", "sm_100": "B200"}

RESOURCES = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stored>\d+) bytes spill stores, "
    r"(?P<loaded>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?[^\n]*",
    re.DOTALL,
)
CODE_OF_KERNEL = re.compile(r"^\.text\.(\w+):$(.*?)(?=^\.text\.|\Z)", re.MULTILINE | re.DOTALL)
VECTOR_ACCESS = re.compile(r"\b(?:LDG|STG|LD|ST)\.E(?:\.\w+)*\.128\b")
TENSOR_INSTRUCTION = re.compile(r"\b[A-Z]*MMA\.")


class Unsupported(UserError):
    """The architecture lacks what a kernel needs, as its source says by #error."""


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


def figures(file: Path, dtype: str, architecture: str) -> dict[str, Figures]:
    """The figures of a file's kernels, by their names.

    Raises Unsupported where the architecture lacks what they need, UserError where the file does not compile.
    """
    found = _kept(file, dtype, architecture, "figures", lambda: _figures(_compile(file, dtype, architecture)[1]))
    return {kernel: Figures(**values) for kernel, values in found.items()}


def instructions(file: Path, dtype: str, architecture: str) -> dict[str, dict[str, int]]:
    """How many of a kernel's machine instructions move 16 bytes from or to the GPU's memory ("vector") and how many
    use tensor cores ("tensor"), by the kernels' names."""
    return _kept(
        file, dtype, architecture, "instructions", lambda: _instructions(_compile(file, dtype, architecture)[0])
    )


def nvrtc_version() -> str:
    from cuda.bindings import nvrtc

    return ".".join(map(str, nvrtc.nvrtcVersion()[1:]))


def table() -> str:
    """docs/kernels.md: every kernel on every architecture."""
    head = ["file", "kernel", *(f"{name} ({card})" for name, card in ARCHITECTURES.items())]
    head += ["shared memory", "stack, spills", "16-byte accesses", "tensor-core instructions"]
    rows = [row for file in files() for row in _rows(file)]
    lines = [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]]
    return HEADER.format(version=nvrtc_version()) + "\n".join(lines) + "\n"


HEADER = """# CUDA kernels

Compiled for these architectures by NVRTC {version} and executed on an emulator; not yet timed on a GPU. Made by
`python -m tinygrad_llm.kernels.cuda.compile`; a test fails where a register is spilled or a stack is needed.

Under an architecture stand the registers of a thread, stored as float32 / float16 / bfloat16 (one number where all are
the same, – where the architecture lacks what the kernel needs). Shared memory is in bytes of a block, without what a
launch adds; stack and spills are in bytes of a thread. The last two columns count instructions in the machine code for
sm_80: those that move 16 bytes from or to the GPU's memory, and those of tensor cores.

"""


def _rows(file: Path) -> list[list[str]]:
    compiled = {}
    for architecture in ARCHITECTURES:
        for dtype in DTYPES:
            try:
                compiled[architecture, dtype] = figures(file, dtype, architecture)
            except Unsupported:
                continue
    counts = {dtype: instructions(file, dtype, "sm_80") for dtype in DTYPES if ("sm_80", dtype) in compiled}
    rows = []
    for kernel in sorted({kernel for found in compiled.values() for kernel in found}):
        of = {key: found[kernel] for key, found in compiled.items()}
        row = [str(file.relative_to(FOLDER)), f"`{kernel}`"]
        for architecture in ARCHITECTURES:
            row.append(_cell(getattr(of.get((architecture, dtype)), "registers", None) for dtype in DTYPES))
        row.append(_cell(max((found.shared for (_, of_dtype), found in of.items() if of_dtype == dtype), default=None) for dtype in DTYPES))
        row.append(", ".join(str(max(getattr(found, what) for found in of.values())) for what in ("stack", "spills")))
        row += [
            _cell(counts[dtype][kernel][kind] if dtype in counts else None for dtype in DTYPES)
            for kind in ("vector", "tensor")
        ]
        rows.append(row)
    return rows


def _cell(values) -> str:
    texts = ["–" if value is None else str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _kept(file: Path, dtype: str, architecture: str, kind: str, make) -> dict:
    """What `make` returns, kept in the user's cache under the content that it depends on."""
    content = f"{nvrtc_version()} {architecture} {options(dtype)} {source(file)}"
    path = cache_folder() / f"{file.stem}-{hashlib.sha256(content.encode()).hexdigest()[:32]}.{kind}.json"
    if not path.exists():
        write_atomic(path, json.dumps(make()))
    return json.loads(path.read_text())


@functools.lru_cache(8)  # figures and instructions of the same
def _compile(file: Path, dtype: str, architecture: str) -> tuple[bytes, str]:
    """The machine code and what the compiler said."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise UserError("NVIDIA's compiler is not installed: pip install 'tinygrad-llm[lab]'") from error
    arguments = [*options(dtype), f"--gpu-architecture={architecture}", f"-I{cuda_headers()}", "--ptxas-options=-v"]
    _, program = nvrtc.nvrtcCreateProgram(source(file).encode(), file.name.encode(), 0, [], [])
    (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), [argument.encode() for argument in arguments])
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode().strip("\0")
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        errors = [line for line in log.splitlines() if "error" in line or "fatal" in line]
        kind = Unsupported if "needs sm_" in log else UserError
        raise kind(f"{file.name} does not compile for {architecture} and {dtype}: {(errors or [log])[0]}")
    return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log


def _text(size, get, program) -> bytes:
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
    nvidia = find_spec("nvidia")
    for root in nvidia.submodule_search_locations if nvidia else []:
        for program in Path(root).glob("cu*/bin/nvdisasm"):
            return program
    raise UserError("NVIDIA's disassembler is not installed: pip install 'tinygrad-llm[lab]'")


def main() -> None:
    docs = FOLDER.parents[1] / "docs"
    if not docs.is_dir():
        raise UserError(f"there is no folder {docs}: the table is made in a checkout of the source")
    write_atomic(docs / "kernels.md", table())


if __name__ == "__main__":
    main()
