"""A reader's kernel file: which operation it computes, which kernels it has, and who launches them.

- A `.py` file (NumPy, Numba, anything) has the functions of its operation's page.
- A `.cu` file with a `.py` beside it, of the same stem, is launched by that one, as in kernels/cuda.
- A `.cu` file alone is launched by the project's wrapper of the operation, in the place of kernels/cuda's own file; so
  its kernels have the names and the parameters of those there. That is how kernels/cuda/versions are checked.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels import cuda
from tinygrad_llm.kernels.cuda import launch
from tinygrad_llm.kernels.cuda.emulator.build import COMMENT, build
from tinygrad_llm.verification import operations

CUDA = Path(cuda.__file__).parent


@dataclass(frozen=True)
class Source:
    """A kernel file, the operation it is for, and the Python file whose functions are called."""

    path: Path
    operation: str
    wrapper: Path
    replaced: Path  # the .cu whose place it takes: itself, or the project's

    @property
    def is_cuda(self) -> bool:
        return self.path.suffix == ".cu"

    @property
    def alone(self) -> bool:
        """Whether the project's wrapper launches it."""
        return self.replaced != self.path

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What it is checked in: a .cu that never says `scalar` is for float32 alone."""
        if not self.is_cuda:
            return ("float64", "float32")
        return cuda.DTYPES if re.search(r"\bscalar\b", without_comments(self.path.read_text())) else ("float32",)


def source(path: str | Path, operation: str | None = None) -> Source:
    """The file at this path. Raises UserError where there is none, and where operation or wrapper cannot be told."""
    path = Path(path)
    if path.suffix not in (".cu", ".py"):
        raise UserError(f"{path} is no kernel: give a .cu or a .py file")
    if not path.is_file():
        raise UserError(f"there is no file {path}: `tinygrad-llm kernel new OPERATION` writes one to begin with")
    operation = operation_of(path, operation)
    if path.suffix == ".py" and path.with_suffix(".cu").is_file():
        path = path.with_suffix(".cu")
    if path.suffix == ".py":
        return Source(path, operation, path, path)
    if path.with_suffix(".py").is_file():
        return Source(path, operation, path.with_suffix(".py"), path)
    ours = [file for file in CUDA.glob(f"{operation}*.cu") if file.stem in path.stem]
    if not ours or not (CUDA / f"{operation}.py").is_file():
        raise UserError(
            f"nothing launches {path}: the project has no CUDA kernel of {operation}, so write {path.stem}.py beside "
            f"it (`tinygrad-llm kernel new {operation}` does)"
        )
    return Source(path, operation, CUDA / f"{operation}.py", max(ours, key=lambda file: len(file.stem)))


def operation_of(path: Path, operation: str | None = None) -> str:
    """The operation given, or else the longest whose name is in the file's: layernorm of my_layernorm_2.cu."""
    known = operations()
    if operation:
        if operation not in known:
            raise UserError(f"no operation is called {operation}; there are {', '.join(known)}")
        return operation
    found = [name for name in known if re.search(rf"(?:^|[_-]){name}(?:$|[_-])", path.stem)]
    found = [name for name in found if not any(name != other and name in other for other in found)]
    if len(found) != 1:
        reason = f"may be of {' or '.join(found)}" if found else "is not named after an operation"
        raise UserError(f"{path} {reason}: add --operation layernorm, say")
    return found[0]


def check_signatures(found: Source) -> None:
    """Raise UserError where the file cannot take the place of the project's own: it is launched by names and types."""
    ours, theirs = (signatures(path) for path in (found.path, found.replaced))
    advice = f"; or write {found.path.stem}.py beside it, to launch it as you like"
    if not ours.keys() & theirs.keys():
        expected = f"{found.replaced.name} has {', '.join(theirs)}"
        raise UserError(f"{found.path} has {', '.join(ours)}, where {expected}{advice}")
    for name, types in ours.items():
        if types != theirs.get(name, types):
            raise UserError(f"{place(found.path, name)}: {name}({types}) must be {name}({theirs[name]}){advice}")


def signatures(path: Path) -> dict[str, str]:
    """The types of the parameters of each kernel, as the compiler sees them with float for `scalar`."""
    library = build(launch.source(path), path.name, launch.options("float32"))
    return {name: ", ".join(library.get_function(name).types).replace("const ", "") for name in library.kernels}


def place(path: Path, kernel: str) -> str:
    """Where a kernel of this file begins, as "file:line"."""
    text = without_comments(path.read_text())
    found = re.search(rf"__global__[^;{{]*\b{kernel}\s*\(", text)
    return f"{path}:{text.count(chr(10), 0, found.start()) + 1}" if found else str(path)


def without_comments(text: str) -> str:
    """The C++ with its comments blank, every line where it was."""
    return COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)

