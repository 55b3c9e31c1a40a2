"""`tinygrad-llm verify`"""

import json
from dataclasses import asdict, dataclass
from itertools import groupby

from rich.console import Console
from rich.table import Table

from tinygrad_llm import ledger, ledger_page
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.cli.progress import progress
from tinygrad_llm.errors import UserError
from tinygrad_llm.ledger import Row
from tinygrad_llm.verification import Comparison

DESCRIPTION = """Compare operations, forward and backward, with PyTorch (pip install 'tinygrad-llm[torch]').

Each operation is computed by each kernel set that has it, in float64 and float32, on cases of odd sizes. In float64
the error may be 1e-10 of the largest number; in float32 twice PyTorch's own. CUDA kernels are computed in float32,
float16 and bfloat16, on a GPU, or where there is none on the emulator. Exit status 1 if any fails.

suites:
  oracle         our cases beside PyTorch
  op_db          PyTorch's own cases of its operators, by its names (pip install 'tinygrad-llm[test]')
  module_db      and of its layers
  derivation     the backward is the forward's derivative, proven by SymPy (pip install 'tinygrad-llm[prove]')
  differences    the backward beside finite differences

examples:
  tinygrad-llm verify                                        every operation, every kernel
  tinygrad-llm verify layernorm gelu --seeds 10
  tinygrad-llm verify layernorm --kernels my/layernorm.py    a kernel of one's own
  tinygrad-llm verify --suite oracle,derivation --check      is any row of docs/ledger.csv worse than recorded?
"""


@dataclass(frozen=True)
class Verification:
    """What to compare.

    Args:
        kernels: kernel sets, with commas between them: numpy, numba, cuda, torch, or a file or folder of one's own; all
            unless given
        suite: what to compare with, with commas between them
        seeds: how many sets of random inputs our own cases have
    """

    kernels: str | None = None
    suite: str = "oracle"
    seeds: int = 1


def run(argv: list[str]) -> int:
    parser = Parser("verify", DESCRIPTION, Verification, positional="[OPERATION ...]")
    parser.add_argument("operations", metavar="OPERATION", nargs="*", help="all unless given")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    parser.add_argument("--check", action="store_true", help="fail where a row is worse than in docs/ledger.csv")
    parser.add_argument("--record", action="store_true", help="write the rows into it, and the page made from it")
    settings = parser.settings(argv)
    names, as_json, check, record = (settings.pop(name) for name in ("operations", "json", "check", "record"))
    c = Verification(**settings)
    kernel_sets = c.kernels.split(",") if c.kernels else ()
    wanted = [(suite, pair) for suite in c.suite.split(",") for pair in ledger.suite(suite).pairs(names, kernel_sets)]
    if not wanted:
        raise UserError(f"{c.suite} has nothing to compare of {' '.join(names) or c.kernels}")
    recorded = ledger.read() if check else {}
    if record:
        ledger.recordable(kernel_sets)
    comparisons, rows = [], []
    for suite, pair in progress(wanted, "comparing"):
        seeded = {"seeds": range(c.seeds)} if suite == "oracle" else {}
        comparisons.append(ledger.suite(suite).compare(*pair, **seeded))
        rows.append(ledger.row(comparisons[-1], c.seeds if seeded else 1))
    worse = [ledger.worse(row, recorded.get(row.key)) if check else "" for row in rows]
    if as_json:
        for comparison, words in zip(comparisons, worse, strict=True):
            theirs = {name: max(errors) for name, errors in comparison.theirs.items()}
            largest = {"errors": comparison.largest, "theirs": theirs, "ratios": comparison.ratios}
            print(json.dumps(asdict(comparison) | largest | {"passed": comparison.passed, "worse": words}))
    else:
        report(comparisons, rows, worse)
    if record:
        ledger.record(rows)
        ledger_page.publish()
    return int(any(worse) or any(not comparison.passed for comparison in comparisons))


def report(comparisons: list[Comparison], rows: list[Row], worse: list[str]) -> None:
    """A table for each suite, then what failed and what got worse, and a line that counts."""
    for suite, group in groupby(zip(comparisons, rows, strict=True), lambda pair: pair[0].suite):
        Console().print(table(suite, list(group)))
    if any(comparison.emulated for comparison in comparisons):
        print("cuda: on the emulator, for want of a GPU")
    for comparison, row, words in zip(comparisons, rows, worse, strict=True):
        for failure in comparison.failures:
            print(f"{row.operation}, {row.kernels}, {row.dtype}: {failure}")
        if words:
            print(f"{' '.join(row.key)}: {words}")
    failed, cases = sum(not comparison.passed for comparison in comparisons), sum(row.cases for row in comparisons)
    print(f"{len(rows)} pairs compared on {cases} cases: {failed or 'none'} failed")


def table(suite: str, group: list[tuple[Comparison, Row]]) -> Table:
    """Operation by kernels by dtype: cases, the largest errors, how many times PyTorch's they are, the verdict."""
    title = f"{suite}: largest errors (of the largest number), × PyTorch's on average"
    result = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("operation", "kernels", "dtype"):
        result.add_column(heading, no_wrap=heading == "dtype", overflow="fold")
    for heading in ("cases", "forward", "× torch", "gradients", "× torch"):
        result.add_column(heading, no_wrap=True, justify="right")
    result.add_column("")
    last = ""
    for comparison, row in group:
        verdict = "[green]ok[/]" if comparison.passed else "[red]FAILED[/]"
        shown = (errors.shown[i] for errors in row.parts.values() for i in (0, 2))
        name = row.operation if row.operation != last else ""
        last = row.operation
        result.add_row(name, row.kernels, row.dtype, str(comparison.cases), *shown, verdict)
    return result
