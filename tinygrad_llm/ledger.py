"""The ledger of verification, docs/ledger.csv: what was compared with what, how exact it was, and did it get worse?

A row is an operation by one kernel set in one dtype, compared by one suite. `tinygrad-llm verify --record` writes the
rows of what it compared, `--check` and the tests hold what they compute against them. The page docs/verification.md
and the README's table are made from the rows.
"""

import csv
import datetime
import io
import math
import platform
import statistics
from collections.abc import Iterable
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

from tinygrad_llm import kernels
from tinygrad_llm.bench.race import processor
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.verification import UNITS, Comparison

LEDGER = Path(__file__).parents[1] / "docs" / "ledger.csv"
SUITES = {
    "oracle": "tinygrad_llm.verification",
    "op_db": "tinygrad_llm.suites.op_db",
    "module_db": "tinygrad_llm.suites.module_db",
    "derivation": "tinygrad_llm.suites.derivation",
    "differences": "tinygrad_llm.suites.differences",
}

FACTOR = 2  # how many times the recorded an error may be, and how much more: other processors add in another order
SLACK = {dtype: (8 if dtype == "float64" else 0.5) * unit for dtype, unit in UNITS.items()}
NOISE = {"differences": 1e-8}  # instead, where that is what the method is off by


def number(value: float, spec: str = ".1e") -> str:
    """A number of the ledger as it is shown, – where there is none."""
    return "–" if math.isnan(value) else format(value, spec)


class Errors(NamedTuple):
    """Relative errors, and ours over PyTorch's (see `Comparison.ratios`); NaN where there is none."""

    largest: float
    median: float
    ratio: float

    @property
    def shown(self) -> tuple[str, str, str]:
        return number(self.largest), number(self.median), number(self.ratio, ".2f")


class Row(NamedTuple):
    """A line of the ledger. Of several gradients, the worst counts."""

    suite: str
    operation: str
    kernels: str
    dtype: str
    cases: int
    left_out: int
    seeds: int
    failures: int
    forward_largest: float
    forward_median: float
    forward_ratio: float
    gradients_largest: float
    gradients_median: float
    gradients_ratio: float
    date: str
    versions: str

    @property
    def key(self) -> tuple[str, ...]:
        return self[:4]

    @property
    def parts(self) -> dict[str, Errors]:
        return {"forward": Errors(*self[8:11]), "gradients": Errors(*self[11:14])}


def suite(name: str):
    """The module with a suite's `pairs` and `compare`. Raises UserError where there is none."""
    if name not in SUITES:
        raise UserError(f"no suite is called {name}; there are {', '.join(SUITES)}")
    return import_module(SUITES[name])


def row(found: Comparison, seeds: int = 1) -> Row:
    """A comparison as the ledger has it, numbers rounded."""
    values = []
    for forward in (True, False):
        for by_result in (
            found.largest,
            {name: statistics.median(errors) for name, errors in found.errors.items()},
            found.ratios,
        ):
            of_these = [value for name, value in by_result.items() if name.startswith("y") == forward]
            values.append(float(f"{max(of_these, default=math.nan):.3g}"))
    key = (found.suite, found.operation, found.kernels, found.dtype)
    counts = (found.cases // seeds, sum(found.left_out.values()), seeds, len(found.failures))
    return Row(*key, *counts, *values, datetime.date.today().isoformat(), versions(found.emulated))


@cache
def versions(emulated: bool = False) -> str:
    """Of all that computes: programs, and the processor with what it can."""
    names = ("tinygrad-llm", "numpy", "numba", "torch")
    found = [f"python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in names)]
    return " ".join([*found, *(["on the emulator,"] if emulated else []), f"on {processor()}"])


def read() -> dict[tuple[str, ...], Row]:
    """The recorded rows. Raises UserError where there is no ledger."""
    if not LEDGER.exists():
        raise UserError(f"there is no ledger {LEDGER}: it is kept in a checkout of the source")
    with LEDGER.open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [Row(*(kind(line[name] or "nan") for name, kind in Row.__annotations__.items())) for line in lines]
    return {row.key: row for row in rows}


def write(rows: Iterable[Row]) -> None:
    """Write the rows in order, by suite, operation, kernel set and dtype."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in sorted(rows, key=lambda row: ([*SUITES].index(row.suite), row)):
        writer.writerow("" if value != value else value for value in row)
    write_atomic(LEDGER, text.getvalue())


def recordable(kernel_sets: Iterable[str]) -> None:
    """Raises UserError where rows of these kernel sets cannot be recorded: of a user's own, and in no checkout."""
    if foreign := set(kernel_sets) - {"numpy", *kernels.builtin_sets()}:
        raise UserError(f"the ledger is of the built-in kernel sets, not of {', '.join(sorted(foreign))}")
    if not LEDGER.parent.is_dir():
        raise UserError(f"there is no folder {LEDGER.parent} for the ledger: it is kept in a checkout of the source")


def record(rows: Iterable[Row]) -> None:
    """Put these rows into the ledger, in place of those of the same, and drop what their suites have no longer."""
    rows = list(rows)
    there_are = {(name, *pair) for name in {row.suite for row in rows} for pair in suite(name).pairs()}
    kept = read() if LEDGER.exists() else {}
    kept = {key: row for key, row in kept.items() if key in there_are or key[0] not in {row.suite for row in rows}}
    write((kept | {row.key: row for row in rows}).values())


def worse(new: Row, old: Row | None) -> str:
    """In what a row is worse than the recorded one, in words; "" if in nothing.

    Fewer cases, more left out, more failures, or a largest error of more than `FACTOR` times the recorded and `SLACK`.
    One processor gives the same errors for the same seeds; without AVX-512 they were at most 1.5 times the recorded.
    """
    command = f"tinygrad-llm verify {new.operation} --kernels {new.kernels} --suite {new.suite}"
    command += f" --seeds {old.seeds if old else 20} --record"
    if old is None:
        return f"not in the ledger; record it with {command}"
    found = []
    if new.cases < old.cases:
        found.append(f"{new.cases} cases, recorded {old.cases}")
    if new.left_out > old.left_out:
        found.append(f"{new.left_out} cases left out, recorded {old.left_out}")
    if new.failures > old.failures:
        found.append(f"{new.failures} failures, recorded {old.failures}")
    for part, errors in new.parts.items():
        error, recorded = errors.largest, old.parts[part].largest
        if error > (limit := FACTOR * recorded + NOISE.get(new.suite, SLACK.get(new.dtype, 0.0))):
            found.append(f"{part} off by {error:.1e}, recorded {recorded:.1e}, allowed {limit:.1e}")
    return "; ".join([*found, f"if it must be so, record it with {command}"]) if found else ""
