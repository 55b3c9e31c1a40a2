"""docs/verification.md and the README's table, made from the ledger: `python -m tinygrad_llm.ledger_page`."""

import math
import re
from collections.abc import Sequence
from itertools import groupby

from tinygrad_llm import ledger, mutation
from tinygrad_llm.files import write_atomic
from tinygrad_llm.ledger import Errors, Row, number

BEGIN, END = "<!-- verification: made by python -m tinygrad_llm.ledger_page -->", "<!-- /verification -->"
MUTANTS = ("made", "killed", "argued", "survived")
DTYPES = ("float64", "float32", "float16", "bfloat16")
APART = 1.1  # ratios from here on, or below one over it, are called less and more exact
PARTS = ("forward", "gradients")
COUNTS = ("pairs", "cases", "left out", "failed runs")
COMPARED_WITH = {
    "oracle": "PyTorch, on our own cases of odd sizes",
    "op_db": "PyTorch, on its own tests of its operators",
    "module_db": "PyTorch, on its own tests of its layers",
    "derivation": "SymPy: the derivative of the forward, exactly",
    "differences": "finite differences in float64",
}
IN_ORDER = "numbers are added one after the other in float32; PyTorch adds several sums side by side"
IN_FLOAT64 = "PyTorch adds in float64"
NUMPYS = "NumPy's function in float32 is off by more units than PyTorch's"
LOGARITHM = "at scores a hundred apart; probabilities are made from the logarithm of a row's sum"
WHY = {
    "attention": LOGARITHM,
    "cumsum": IN_FLOAT64,
    "div": IN_ORDER,
    "exp": NUMPYS,
    "linear": IN_ORDER,
    "lora_linear": IN_ORDER,
    "maximum": IN_ORDER,
    "minimum": IN_ORDER,
    "mlp": IN_ORDER,
    "nn.functional.layer_norm": "of one or two numbers the gradient is zero but for rounding",
    "nn.functional.scaled_dot_product_attention": LOGARITHM,
    "quantized_linear": IN_ORDER,
    "tanh": NUMPYS,
    "var": IN_FLOAT64,
}

HEADER = f"""# Verification

What each operation was compared with, and how exact it was. Made by `python -m tinygrad_llm.ledger_page` from
[ledger.csv](ledger.csv), whose rows `tinygrad-llm verify --record` writes. The tests and `tinygrad-llm verify --check`
fail where a row gets worse: fewer cases, a failure, or an error of more than {ledger.FACTOR} times the recorded and
half a unit in the last place (eight in float64).

An error is the largest difference from PyTorch's float64, as a share of the largest number in the result. In float64 it
may be 1e-10; below, twice PyTorch's own error in that dtype on the same inputs, and four units in the last place of
float32, one of float16 and bfloat16, or what a change of the inputs by four units of float32 does, if that is more.
CUDA kernels are run on an emulator. Of several gradients, the worst is told.
"""

RATIOS = f"""
## More exact than PyTorch, and less

The ratio is our error over PyTorch's, in the same dtype, both against float64: the geometric mean over all cases and
seeds of (ours + u) / (PyTorch's + u), u being half a unit in the last place, so that two results as exact as rounding
allows are equal. Here are those of at most {1 / APART:.2f} and of at least {APART:.2f}; between them are the other
"""


def publish() -> None:
    """Write the page beside the ledger, and the README's table between its two comments."""
    rows = list(ledger.read().values())
    write_atomic(ledger.LEDGER.with_name("verification.md"), page(rows))
    readme = ledger.LEDGER.parents[1] / "README.md"
    between = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    write_atomic(readme, between.sub(lambda _: summary(rows), readme.read_text()))


def page(rows: Sequence[Row]) -> str:
    text = f"{HEADER}\n## In short\n\n{summary(rows)}\n{by_kernels(rows)}{failures(rows)}{ratios(rows)}\n## Every row\n"
    return text + "".join(of_suite(name, list(group)) for name, group in groupby(rows, lambda row: row.suite))


def summary(rows: Sequence[Row]) -> str:
    """A line for each suite, and below for each kernel set one on its mutants."""
    lines = []
    for name, what in COMPARED_WITH.items():
        if found := [row for row in rows if row.suite == name]:
            sets = ", ".join(dict.fromkeys(row.kernels for row in found))
            lines.append([what, sets, str(len({row.operation for row in found})), *counts(found)])
    return table(["compared with", "kernel sets", "operations", *COUNTS], lines) + mutants()


def mutants() -> str:
    """A line for each kernel set: how many mistakes were planted, and what became of them."""
    lines = []
    for kernel_set in dict.fromkeys(tally.kernels for tally in mutation.recorded().values()):
        found = [tally for tally in mutation.recorded().values() if tally.kernels == kernel_set]
        sums = (sum(getattr(tally, name) for tally in found) for name in MUTANTS)
        lines.append([kernel_set, str(len(found)), *(f"{n:,}" for n in sums)])
    return "\n" + table(["mutants of", "files", *MUTANTS], lines) if lines else ""


def by_kernels(rows: Sequence[Row]) -> str:
    """A line for each suite and kernel set, with the largest errors."""
    lines = []
    for name, kernel_set in dict.fromkeys((row.suite, row.kernels) for row in rows):
        found = [row for row in rows if (row.suite, row.kernels) == (name, kernel_set)]
        errors = [(row.dtype, errors.largest) for row in found for errors in row.parts.values()]
        of_dtypes = ([x for of, x in errors if of == dtype and not math.isnan(x)] for dtype in DTYPES)
        lines.append([name, kernel_set, *counts(found), *(number(max(xs, default=math.nan)) for xs in of_dtypes)])
    return table(["suite", "kernels", *COUNTS, *DTYPES], lines)


def counts(rows: Sequence[Row]) -> list[str]:
    """For the columns COUNTS."""
    cases = sum(row.cases * row.seeds for row in rows)
    return [f"{n:,}" for n in (len(rows), cases, sum(row.left_out for row in rows), sum(row.failures for row in rows))]


def ratios(rows: Sequence[Row]) -> str:
    """The two lists of those that differ from PyTorch in exactness, the furthest first."""
    found = [
        (errors, [row.operation, row.kernels, row.dtype, part, errors.shown[2], errors.shown[0]])
        for row in rows
        for part, errors in row.parts.items()
        if row.suite == "oracle" and not math.isnan(errors.ratio)
    ]
    found.sort(key=lambda each: each[0].ratio)
    more = [line for errors, line in found if errors.ratio <= 1 / APART]
    less = [[*line, WHY.get(line[0], "")] for errors, line in reversed(found) if errors.ratio >= APART]
    head = ["operation", "kernels", "dtype", "of", "ratio", "largest error"]
    text = f"{RATIOS}{len(found) - len(more) - len(less)} of {len(found)}.\n"
    return f"{text}\n### More exact\n\n{table(head, more)}\n### Less exact\n\n{table([*head, 'why'], less)}"


def failures(rows: Sequence[Row]) -> str:
    """What passed the limit when it was recorded."""
    head = ["suite", "operation", "kernels", "dtype", "runs", "why"]
    lines = [[*row.key, str(row.failures), WHY.get(row.operation, "")] for row in rows if row.failures]
    return f"\n## Beyond the limit\n\n{table(head, lines)}" if lines else ""


def of_suite(name: str, rows: Sequence[Row]) -> str:
    """All rows of a suite, without the columns in which there is nothing."""
    head = ["operation", "kernels", "dtype", "cases", *(f"{part}: {what}" for part in PARTS for what in Errors._fields)]
    lines = [
        [row.operation, row.kernels, row.dtype, str(row.cases)]
        + [text for errors in row.parts.values() for text in errors.shown]
        for row in rows
    ]
    columns = [column for column in zip(head, *lines, strict=True) if {*column[1:]} != {number(math.nan)}]
    head, *lines = zip(*columns, strict=True)
    seeds = ", ".join(f"{n}" for n in sorted({row.seeds for row in rows}))
    return f"\n### {name}\n\n{COMPARED_WITH[name]}; seeds: {seeds}.\n\n{table(head, lines)}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown; columns of numbers are aligned to the right."""
    columns = zip(head, *lines, strict=True)
    rule = ["---:" if all(re.match(r"\d|–", cell) for cell in column) else "---" for _, *column in columns]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))


if __name__ == "__main__":
    publish()
