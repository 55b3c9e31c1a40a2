"""Mutation testing: each small mistake that one could make in a page or kernel, and whether verification notices.

A *mutant* is the text of one file with one change. It is *killed* when a comparison with PyTorch fails, *argued* when
`equivalent.md` says why nothing could fail, and *survives* otherwise: then a case is missing. Neither mutmut nor
cosmic-ray fits: they run a test suite in a new process for each of thousands of mutants, which here take milliseconds.
"""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tinygrad_llm.mutation import host
from tinygrad_llm.mutation.changes import changes

EQUIVALENT = Path(__file__).with_name("equivalent.md")


class Mutant(NamedTuple):
    """A file with a mistake in it. `what` is the changed line with «old → new», `source` the whole altered text."""

    operation: str
    kernels: str
    file: Path
    line: int
    what: str
    source: str


def names(kernel_set: str) -> list[str]:
    """What can be mutated: operations, and the files that they share, by the stem of the file."""
    return sorted(host.users(kernel_set))


def mutants(operation: str, kernel_set: str = "numpy") -> list[Mutant]:
    """Every mutant of an operation's page or kernel, or of a file that several share (see `names`)."""
    file = host.path(kernel_set, operation)
    return [Mutant(operation, kernel_set, file, *change) for change in changes(file.read_text())]


def verdict(mutant: Mutant) -> str:
    """What becomes of it: "killed by …", "argued: …" with the argument of `equivalent.md`, or "survived"."""
    found = host.verdict(mutant.kernels, mutant.file, mutant.source)
    argument = argued().get((_label(mutant.file), mutant.what))
    return f"argued: {argument}" if found == "survived" and argument else found


@cache
def argued() -> dict[tuple[str, str], str]:
    """What `equivalent.md` says: (file, change) -> why nothing can notice it.

    There a heading is a file, as in "ops/layernorm.py", a paragraph an argument, and the list below it the changes.
    """
    found, file, argument = {}, "", ""
    for block in re.split(r"\n\s*\n", EQUIVALENT.read_text()):
        if block.startswith("## "):
            file = block.removeprefix("## ")
        elif block.startswith("- "):
            found |= {(file, change): argument for change in re.findall(r"^- `(.*)`$", block, re.M)}
        else:
            argument = " ".join(block.split())
    return found


def _label(file: Path) -> str:
    return "/".join(file.parts[-2:])
