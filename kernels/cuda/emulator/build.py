"""From CUDA source to a library for the CPU: made by g++, kept in the user's cache under a hash of its ingredients."""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import replacing
from tinygrad_llm.kernels.cuda.emulator.library import Library

INCLUDE = Path(__file__).parent / "include"
SANITIZERS = {
    None: [],
    "thread": ["-g1", "-fsanitize=thread"],  # lines without variables: they take twice the time to compile
    "address": ["-g1", "-fsanitize=address", "-fsanitize-recover=address"],
    # ThreadSanitizer's calls at every access, and our own memory.cpp to answer them.
    "memory": ["-g1", "-fsanitize=thread", "-DEMULATOR_MEMORY"],
}
WITHOUT_SANITIZER = ["-nodefaultlibs", "-lstdc++", "-lm", "-lgcc", "-lc"]
FLAGS = ["-std=c++17", "-fPIC", "-O1", "-fno-strict-aliasing", "-fno-threadsafe-statics", "-w"]

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
SYSTEM_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<[^>]+>", re.MULTILINE)
DYNAMIC_SHARED = re.compile(
    r"\bextern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\s*\w+\s*\)\s*)?([\w:\s]+?)\s*\b(\w+)\s*\[\s*\]\s*;"
)
_BOUNDS = r"(?:__launch_bounds__\s*\(([^()]*)\)\s*)?"
KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(')


class CompileError(UserError):
    """Source that does not compile: its message is the first of `errors`, all that the compiler has found."""

    def __init__(self, errors: list[str]):
        super().__init__(errors[0])
        self.errors = errors


def build(source: str, name: str = "kernel.cu", options: tuple[str, ...] = (), sanitizer: str | None = None) -> Library:
    """Compile CUDA C++ for the emulator: `name` is the file that errors name, `options` are NVRTC's (only -D counts).

    Without `sanitizer`, the one that the process was started under (see `sanitize`) applies. Raises CompileError, and
    UserError for source that has no `extern "C" __global__` function, and where a compiler is missing.
    """
    return _build(source, name, tuple(options), sanitizer or os.environ.get("TINYGRAD_LLM_SANITIZER"))


@functools.cache
def _build(source: str, name: str, options: tuple[str, ...], sanitizer: str | None) -> Library:
    kernels, text = translate(source, name)
    if not kernels:
        raise UserError(f'{name} has no kernel: none is declared as extern "C" __global__ void NAME(...)')
    text = "\n".join([*(_define(option) for option in options if option.startswith("-D")), text])
    toolchain = _toolchain(sanitizer)
    key = hashlib.sha256(f"{toolchain} {text}".encode()).hexdigest()[:32]
    path = cache_folder() / f"{Path(name).stem}-{key}.so"
    if not path.exists():
        header = ["-include", str(toolchain / "cuda_emulator.h"), f"-I{cuda_headers()}"]
        runtime = ["-x", "none", str(toolchain / "libemulator.so")]
        runtime += WITHOUT_SANITIZER if sanitizer == "memory" else []
        _compile([*SANITIZERS[sanitizer], "-shared", *header, "-x", "c++", "-"], path, text, runtime)
    return Library(path, toolchain / "libemulator.so", tuple(kernels))


def translate(source: str, name: str) -> tuple[list[str], str]:
    """The names of the kernels in CUDA source, and the same as C++ for the emulator, line by line.

    All of it is in one unnamed namespace, so that shared memory in templates and inline functions is the library's
    own; headers of the system come before.
    """
    source = COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), source)
    headers = SYSTEM_INCLUDE.findall(source)
    source = SYSTEM_INCLUDE.sub("", source)
    source = DYNAMIC_SHARED.sub(r"\1* const \2 = reinterpret_cast<\1*>(emulator::dynamic_shared);", source)
    kernels = {kernel: (before or after or "1024").split(",")[0] for before, after, kernel in KERNEL.findall(source)}
    exports = [f"EMULATOR_EXPORT({kernel}, {most_threads})" for kernel, most_threads in kernels.items()]
    text = [*headers, "namespace {", f'#line 1 "{name}"', source, "}", *exports, ""]
    return list(kernels), "\n".join(text)


def cache_folder() -> Path:
    """Where compiled kernels are kept, in the user's folder for caches."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "tinygrad-llm" / "emulator"


def cuda_headers() -> Path:
    """The folder of NVIDIA's headers, from the wheels or from an installed toolkit; UserError without."""
    toolkit = Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "include"
    for folder in [*in_wheels("include"), toolkit]:
        if (folder / "cuda_fp16.h").is_file():
            return folder
    raise UserError("CUDA's headers are not installed: pip install 'tinygrad-llm[lab]'")


def in_wheels(path: str) -> list[Path]:
    """What NVIDIA's wheels, of whatever version of CUDA, have under this path."""
    nvidia = find_spec("nvidia")
    roots = nvidia.submodule_search_locations if nvidia else []
    return [found for root in roots for found in sorted(Path(root).glob(f"cu*/{path}"))]


def check() -> None:
    """Raise UserError for what the emulator needs and is not here: a compiler, CUDA's headers."""
    _compiler_version()
    cuda_headers()


def _define(option: str) -> str:
    name, _, value = option.removeprefix("-D").partition("=")
    return f"#define {name} {value or 1}"


@functools.cache
def _toolchain(sanitizer: str | None) -> Path:
    """A folder with the emulator's precompiled header and its library, which is linked by this path: so libraries of
    several sanitizers are loaded beside each other.
    """
    files = sorted(path for path in INCLUDE.rglob("*") if path.is_file())
    ingredients = [_compiler_version(), str(cuda_headers()), *FLAGS, *SANITIZERS[sanitizer]]
    ingredients += [file.read_text() for file in files]
    key = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()[:32]
    folder = cache_folder() / f"toolchain-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / "toolchain"
            shutil.copytree(INCLUDE, made)
            header, library = made / "cuda_emulator.h", made / "libemulator.so"
            include = [f"-I{made}", f"-I{cuda_headers()}"]
            _compile([*SANITIZERS[sanitizer], *include, "-x", "c++-header", str(header)], header.with_suffix(".h.gch"))
            parts = ["runtime.cpp", "fibers.cpp", *(["memory.cpp"] if sanitizer == "memory" else [])]
            _compile([*include, "-O2", "-shared", *(str(made / part) for part in parts)], library)
            with contextlib.suppress(OSError):  # another process has made it meanwhile
                made.rename(folder)
    return folder


@functools.cache
def _compiler_version() -> str:
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        raise UserError("the emulator of CUDA runs on Linux on x86-64 only")
    if not shutil.which("g++"):
        raise UserError("the emulator of CUDA needs the compiler g++: install it, as with: apt install g++")
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def _compile(arguments: list[str], output: Path, source: str | None = None, libraries: list[str] = ()) -> None:
    with replacing(output) as temporary:
        command = ["g++", *FLAGS, *arguments, *libraries, "-o", str(temporary)]
        environment = {**os.environ, "LC_ALL": "C"}
        result = subprocess.run(
            command, input=source, capture_output=True, text=True, errors="replace", env=environment
        )
        if result.returncode:
            errors = re.findall(r"^.*error: .*$", result.stderr, re.MULTILINE) or result.stderr.splitlines()[-1:]
            raise CompileError(errors or [f"g++ ended with status {result.returncode}"])
