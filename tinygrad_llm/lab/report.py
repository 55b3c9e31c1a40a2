"""What a check has found, for people and for programs."""

import io
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

SCOPE = "compiled for sm_75 to sm_100 and executed on an emulator; not yet timed on a GPU"

ADVICE = {  # what to do about each kind, causes before what comes of them
    "compile": "kernels are CUDA C++17 as NVRTC takes it, which CuPy calls: no headers of the host",
    "launch": "see what the wrapper passes: grid, block, arguments of the kernel's types; nothing to do, no launch",
    "unused": "let the wrapper launch it, or rename it to what the project's wrapper launches",
    "crash": "an access far beyond an array most likely: see what the address sanitizer says",
    "divergence": "every thread of a block must reach the same barrier: move it out of the branch or the loop",
    "mask": "name in the mask exactly the lanes that reach the shuffle, and let every one of them reach it",
    "overrun": "compare the index with the size before the access: the last block and the last pack are seldom full",
    "race": "put a __syncthreads() (a __syncwarp() within a warp) between the write and the other access",
    "uninitialized": "write every element of shared memory before any thread reads it, also in the last, short tile",
    "error": "",
    "value": "compare the derivation on the operation's page with the line that computes it",
    "spill": "let fewer values live at once, and unroll loops over arrays that shall stay in registers",
}

WARNINGS = ("spill",)  # slow, and not wrong


@dataclass(frozen=True)
class Finding:
    """Something to repair: its kind, a line saying what, where in the source ("file:line"), and details under it."""

    kind: str
    message: str
    where: str = ""
    details: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        return ADVICE[self.kind]


KINDS = {  # words in what emulator and sanitizers say; the first that is found counts
    "__syncthreads": "divergence",
    "mask": "mask",
    "lanes of one warp": "mask",
    "overflow": "overrun",
    "race": "race",
    "bytes of dynamic shared memory": "launch",
    "shared memory": "uninitialized",
    "a grid of": "launch",
    "a block of": "launch",
    "argument": "launch",
}
PLACE = r"[\w.-]+:\d+"
SAID = re.compile(
    rf"(?:(?P<kernel>\w+): )?(?:(?P<place>{PLACE})(?: in (?P<through>{PLACE}(?: in {PLACE})*))?"
    r"(?: \((?P<access>[^)]*)\))?: )?(?P<message>.*)",
    re.DOTALL,
)


def finding_of(said: str, *details: str) -> Finding:
    """What the emulator or a sanitizer says, which may begin with the kernel and the place: as "layernorm_forward:
    common.cuh:81 in layernorm.cu:31: what was wrong" or "layernorm.cu:31 (write of 4 bytes): what was wrong".
    """
    words = SAID.fullmatch(said.replace("(anonymous namespace)::", "")).groupdict(default="")
    kind = next((kind for word, kind in KINDS.items() if word in words["message"]), "error")
    message = f"{words['access']}: {words['message']}" if words["access"] else words["message"]
    also = (f"in {words['kernel']}" if words["kernel"] else "", f"from {words['through']}" if words["through"] else "")
    return Finding(kind, message, words["place"], tuple(filter(None, (*also, *details))))


@dataclass
class Values:
    """The comparison with the oracle in one dtype and thread order: runs, and the largest errors by result."""

    dtype: str
    order: str
    runs: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    passed: bool = True


@dataclass
class Asked:
    """The file's kernels that the wrapper has launched, with the dtypes."""

    kernels: list[tuple[str, str]]


@dataclass
class Compiled:
    """What NVRTC made of a kernel, for one dtype and one architecture."""

    kernel: str
    dtype: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spills: int


@dataclass
class Report:
    """What `check` has found out about a kernel file."""

    file: str
    operation: str
    launched_by: str
    values: list[Values] = field(default_factory=list)
    compiled: list[Compiled] = field(default_factory=list)
    instructions: dict[str, dict[str, int]] = field(default_factory=dict)  # "KERNEL DTYPE": vector and tensor, of sm_80
    sanitized: dict[str, int] = field(default_factory=dict)  # by sanitizer, how much it has found
    findings: list[Finding] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)  # kernels that no case has launched
    to_write: list[str] = field(default_factory=list)  # where the reader's files say TODO, as "file:line"
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return all(finding.kind in WARNINGS for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line."""
        if self.passed:
            slow = f", {len(self.findings)} × spill" if self.findings else ""
            return f"{self.file}: passed as {self.operation}{slow}"
        counts = Counter(finding.kind for finding in self.findings)
        return f"{self.file}: FAILED as {self.operation}: {', '.join(f'{n} × {kind}' for kind, n in counts.items())}"

    def to_dict(self) -> dict:
        """For JSON, the verdict first."""
        found = {"passed": self.passed, "verdict": self.verdict} | asdict(self) | {"scope": SCOPE}
        found["findings"] = [asdict(finding) | {"advice": finding.advice} for finding in self.findings]
        for row in found["values"]:  # JSON has no infinity
            row["errors"] = {name: error if math.isfinite(error) else None for name, error in row["errors"].items()}
        return found

    def __rich__(self) -> Group:
        style = "bold green" if self.passed else "bold red"
        parts = [Text(self.verdict, style), Text(f"launched by {self.launched_by}; {self.seconds:.0f} s")]
        for number, finding in enumerate(self.findings, 1):
            parts += ["", *_shown(number, finding)]
        for table in (_values(self.values), _compiled(self.compiled, self.instructions)):
            parts += ["", table] if table else []
        if self.sanitized:
            found = (f"{name} {count or 'nothing'}" for name, count in self.sanitized.items())
            parts += ["", Text(f"what the sanitizers have found: {', '.join(found)}")]
        parts += [Text(f"never launched by these cases: {', '.join(self.idle)}")] if self.idle else []
        parts += [Text(f"still to be written: {', '.join(self.to_write)}")] if self.to_write else []
        return Group(*parts, Text(SCOPE if self.compiled else ""))

    def __str__(self) -> str:
        console = Console(width=110, file=io.StringIO())
        console.print(self)
        return console.file.getvalue()


def _shown(number: int, finding: Finding):
    """A finding in a few lines, with the line of the source that it is about."""
    place = f"  {finding.where}" if finding.where else ""
    yield Text.from_markup(f"[bold red]{number}. {finding.kind}[/]{escape(place)}")
    for line in (finding.message, *finding.details):
        yield Text(f"   {line}")
    if code := source_line(finding.where):
        yield Text(f"   > {code}", "yellow")
    if finding.advice:
        yield Text(f"   to do: {finding.advice}", "cyan")


def shown(path: Path) -> str:
    """A path as one would type it here."""
    path, here = path.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def source_line(where: str) -> str:
    """The line of code at "file:line"; nothing where there is no such file."""
    name, _, number = where.rpartition(":")
    if not number.isdigit() or not Path(name).is_file():
        return ""
    lines = Path(name).read_text().splitlines()
    return lines[int(number) - 1].strip() if 0 < int(number) <= len(lines) else ""


def _values(rows: list[Values]) -> Table | None:
    """The largest errors by dtype; in one line where all orders of threads give the same."""
    if not rows:
        return None
    table = Table(title="against PyTorch: largest errors, as shares of the largest number", title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row.errors))
    for heading in ("dtype", "threads", "runs", *names, ""):
        table.add_column(heading)
    for _, group in groupby(rows, lambda row: (row.dtype, row.runs, row.passed, str(row.errors))):
        same = list(group)
        errors = [f"{same[0].errors[name]:.1e}" if name in same[0].errors else "–" for name in names]
        verdict = "[green]ok[/]" if same[0].passed else "[red]wrong[/]"
        table.add_row(same[0].dtype, ", ".join(row.order for row in same), str(same[0].runs), *errors, verdict)
    return table


def _compiled(rows: list[Compiled], instructions: dict[str, dict[str, int]]) -> Table | None:
    if not rows:
        return None
    title = "made by NVRTC: registers of a thread, bytes of memory, 16-byte and tensor-core instructions for sm_80"
    table = Table(title=title, title_justify="left")
    architectures = list(dict.fromkeys(row.architecture for row in rows))
    for heading in ("kernel", "dtype", *architectures, "shared", "stack", "spills", "16-byte", "tensor"):
        table.add_column(heading, no_wrap=heading in ("kernel", "dtype"), overflow="fold")
    for kernel, dtype in dict.fromkeys((row.kernel, row.dtype) for row in rows):
        group = [row for row in rows if (row.kernel, row.dtype) == (kernel, dtype)]
        registers = {row.architecture: str(row.registers) for row in group}
        worst = [str(max(getattr(row, name) for row in group)) for name in ("shared", "stack", "spills")]
        counts = instructions.get(f"{kernel} {dtype}", {})
        found = [str(counts.get(kind, "–")) for kind in ("vector", "tensor")]
        table.add_row(kernel, dtype, *(registers.get(a, "–") for a in architectures), *worst, *found)
    return table
