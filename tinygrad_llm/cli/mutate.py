"""`tinygrad-llm mutate`"""

import json
from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tinygrad_llm import ledger, ledger_page, mutation
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.cli.progress import progress
from tinygrad_llm.errors import UserError
from tinygrad_llm.mutation import Tally

DESCRIPTION = """Plant every small mistake in pages and kernels, and see whether the comparison with PyTorch notices.

A mutant is a file with one change: a sign turned, a term dropped, another axis, < for <=. It is killed when a case of
`tinygrad-llm verify` fails, argued when mutation/equivalent.md says why nothing can fail, and survives otherwise: then
a case is missing. Numba's kernels are interpreted, CUDA's run on the emulator. Exit status 1 if any survives.

examples:
  tinygrad-llm mutate                                  every page, two minutes
  tinygrad-llm mutate layernorm attention --survivors
  tinygrad-llm mutate gelu --kernels numpy,numba,cuda
"""


@dataclass(frozen=True)
class Mutation:
    """What to mutate.

    Args:
        kernels: kernel sets, with commas between them: numpy, numba, torch, cuda
    """

    kernels: str = "numpy"


def run(argv: list[str]) -> int:
    parser = Parser("mutate", DESCRIPTION, Mutation, positional="[NAME ...]")
    parser.add_argument("names", metavar="NAME", nargs="*", help="operations or shared files; all unless given")
    parser.add_argument("--survivors", action="store_true", help="print each survivor: its file, line and change")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    parser.add_argument("--record", action="store_true", help="write the counts into docs/mutants.csv")
    settings = parser.settings(argv)
    names, survivors, as_json, record = (settings.pop(name) for name in ("names", "survivors", "json", "record"))
    c = Mutation(**settings)
    files = [(file, kernel_set) for kernel_set in c.kernels.split(",") for file in mutation.names(kernel_set)]
    wanted = [(file, kernel_set) for file, kernel_set in files if not names or {file, stem(file)} & {*names}]
    if unknown := {*names} - {name for file, _ in wanted for name in (file, stem(file))}:
        there = ", ".join(dict.fromkeys(file for file, _ in files))
        raise UserError(f"no file of {c.kernels} is called {', '.join(sorted(unknown))}; there are {there}")
    if record:
        ledger.read()  # outside a checkout there is none: an error before the work, not after it
    tallies = []
    for name, kernel_set in progress(wanted, "judging mutants"):
        verdicts = Counter()
        for mutant, verdict in mutation.judged(name, kernel_set):
            verdicts[verdict.partition(" ")[0].rstrip(":")] += 1
            if survivors and verdict == "survived":
                print(f"{mutant.label}:{mutant.line}: {mutant.what}", flush=True)
        counts = (verdicts[word] for word in ("killed", "argued", "survived"))
        tallies.append(Tally(name, kernel_set, verdicts.total(), *counts))
    if as_json:
        for row in tallies:
            print(json.dumps(row._asdict()))
    else:
        Console().print(table(tallies))
    if record:
        mutation.record(tallies)
        ledger_page.publish()
    return int(any(row.survived for row in tallies))


def stem(file: str) -> str:
    """The operation that a file is named after: "gelu" of the page and of gelu.cu."""
    return file.partition(".")[0]


def table(tallies: list[Tally]) -> Table:
    """A row for each file, and their sum."""
    result = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in Tally._fields:
        result.add_column(heading, justify="left" if heading in ("file", "kernels") else "right", overflow="fold")
    total = Tally("all", "", *(sum(column) for column in list(zip(*tallies, strict=True))[2:]))
    for row in (*tallies, total):
        result.add_row(*map(str, row))
    return result
