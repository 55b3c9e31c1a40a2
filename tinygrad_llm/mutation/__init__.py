"""Mutation testing: each small mistake that one could make in a page or kernel, and whether verification notices.

A *mutant* is the text of one file with one change. It is *killed* when a comparison with PyTorch fails, *argued* when
`equivalent.md` says why nothing could fail, and *survives* otherwise: then a case is missing. Neither mutmut nor
cosmic-ray fits: they run a test suite in a new process for each of thousands of mutants, which here take milliseconds.
"""

import csv
import importlib
import io
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.mutation import host
from tinygrad_llm.mutation.changes import changes

SETS = ("numpy", "numba", "torch", "cuda")
EQUIVALENT = Path(__file__).with_name("equivalent.md")
RECORD = Path(__file__).parents[2] / "docs" / "mutants.csv"  # in a checkout


class Mutant(NamedTuple):
    """A file with a mistake in it. `what` is the changed line with «old → new», `source` the whole altered text."""

    kernels: str
    file: Path
    line: int
    what: str
    source: str

    @property
    def label(self) -> str:
        """The file with its folder, as "ops/layernorm.py"."""
        return "/".join(self.file.parts[-2:])


class Tally(NamedTuple):
    """How many mutants of a file there are, and what became of them."""

    file: str
    kernels: str
    made: int
    killed: int
    argued: int
    survived: int


def names(kernel_set: str) -> list[str]:
    """What has mutants: operations, and the files that they share. Raises UserError for a set that has none."""
    if kernel_set not in SETS:
        raise UserError(f"no kernel set {kernel_set!r} has mutants: choose among {', '.join(SETS)}")
    return _cuda().names() if kernel_set == "cuda" else sorted(host.users(kernel_set))


def mutants(name: str, kernel_set: str = "numpy") -> list[Mutant]:
    """Every mutant of a page or kernel in Python, or of a file that several share."""
    file = host.path(kernel_set, name)
    return [Mutant(kernel_set, file, *change) for change in changes(file.read_text())]


def verdict(mutant: Mutant) -> str:
    """What becomes of it: "killed by …", "argued: …" with the argument of `equivalent.md`, or "survived"."""
    return explained(mutant, host.verdict(mutant.kernels, mutant.file, mutant.source))


def judged(name: str, kernel_set: str) -> Iterator[tuple[Mutant, str]]:
    """Every mutant of a file with its verdict. Raises UserError for a file that is wrong itself."""
    if kernel_set == "cuda":
        for change, found in _cuda().judged(name):
            mutant = Mutant(kernel_set, _cuda().FOLDER / name, *change)
            yield mutant, explained(mutant, found)
    else:
        file = host.path(kernel_set, name)
        if (found := host.verdict(kernel_set, file, file.read_text())) != "survived":
            raise UserError(f"{file} itself is {found}")
        yield from ((mutant, verdict(mutant)) for mutant in mutants(name, kernel_set))


def _cuda() -> ModuleType:
    """What needs the parser of C++, and the emulator."""
    return importlib.import_module(f"{__name__}.emulated")


def explained(mutant: Mutant, found: str) -> str:
    """A verdict with its argument, if it survived and has one."""
    argument = argued().get((mutant.label, mutant.what))
    return f"argued: {argument}" if found == "survived" and argument else found


@cache
def argued() -> dict[tuple[str, str], str]:
    """What `equivalent.md` says: (file, change) -> why nothing can notice it.

    There a heading is a file, as in "ops/layernorm.py", a paragraph an argument, and the list below it the changes.
    """
    found, file, argument = {}, "", ""
    for block in re.split(r"\n\s*\n", EQUIVALENT.read_text()):
        if block.startswith("## "):
            file = block.removeprefix("## ").strip()
        elif block.startswith("- "):
            found |= {(file, change): argument for change in re.findall(r"^- `(.*)`$", block, re.M)}
        else:
            argument = " ".join(block.split())
    return found


def recorded() -> dict[tuple[str, str], Tally]:
    """All of docs/mutants.csv, by file and kernel set; nothing without a checkout."""
    if not RECORD.is_file():
        return {}
    rows = csv.reader(RECORD.read_text().splitlines()[1:])
    return {(file, kernels): Tally(file, kernels, *map(int, counts)) for file, kernels, *counts in rows}


def record(tallies: Iterable[Tally]) -> None:
    """Write these into docs/mutants.csv, in place of what it has of the same files."""
    rows = recorded() | {(row.file, row.kernels): row for row in tallies}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([Tally._fields, *(rows[key] for key in sorted(rows, key=lambda key: key[::-1]))])
    write_atomic(RECORD, text.getvalue())
