"""`tinygrad-llm verify`"""

import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.verification import Comparison, compare, pairs

DESCRIPTION = """Compare operations, forward and backward, with PyTorch (pip install 'tinygrad-llm[torch]').

Each operation is computed by each kernel set that has it, in float64 and float32, on cases of odd sizes. In float64
the error may be 1e-10 of the largest number; in float32 twice PyTorch's own. CUDA kernels are computed in float32,
float16 and bfloat16, on a GPU, or where there is none on the emulator. Exit status 1 if any fails.

examples:
  tinygrad-llm verify                                        every operation, every kernel
  tinygrad-llm verify layernorm gelu --seeds 10
  tinygrad-llm verify layernorm --kernels my/layernorm.py    a kernel of one's own
"""


@dataclass(frozen=True)
class Verification:
    """What to compare.

    Args:
        kernels: kernel sets, with commas between them: numpy, numba, cuda, torch, or a file or folder of one's own; all
            unless given
        seeds: how many sets of random inputs to compare on
    """

    kernels: str | None = None
    seeds: int = 1


def run(argv: list[str]) -> int:
    parser = Parser("verify", DESCRIPTION, Verification, positional="[OPERATION ...]")
    parser.add_argument("operations", metavar="OPERATION", nargs="*", help="all unless given")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    settings = parser.settings(argv)
    names, as_json = settings.pop("operations"), settings.pop("json")
    c = Verification(**settings)
    wanted = pairs(names, c.kernels.split(",") if c.kernels else ())
    console = Console(stderr=True)
    quiet = not console.is_terminal
    wanted = track(wanted, "comparing with PyTorch", console=console, transient=True, disable=quiet)
    rows = [compare(*pair, seeds=range(c.seeds)) for pair in wanted]
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row) | {"errors": row.largest, "passed": row.passed}))
    else:
        Console().print(table(rows))
        for row in rows:
            for failure in row.failures:
                print(f"{row.operation}, {row.kernels}, {row.dtype}: {failure}")
        failed = sum(not row.passed for row in rows)
        print(f"{len(rows)} pairs compared on {sum(row.cases for row in rows)} cases: {failed or 'none'} failed")
    return int(any(not row.passed for row in rows))


def table(rows: list[Comparison]) -> Table:
    """Operation by kernels by dtype: cases, the largest error of the forward and of each gradient, the verdict."""
    result = Table(title="largest errors, as shares of the largest number", title_justify="left")
    for heading in ("operation", "kernels", "dtype", "cases", "forward", "gradients", ""):
        result.add_column(heading, no_wrap=heading not in ("kernels", "gradients"), overflow="fold")
    for row in rows:
        errors = row.largest
        forward = f"{errors.pop('y'):.1e}" if "y" in errors else "–"
        gradients = "  ".join(f"{name}\N{NO-BREAK SPACE}{error:.1e}" for name, error in errors.items())
        verdict = "[green]ok[/]" if row.passed else "[red]FAILED[/]"
        kernels = f"{row.kernels}, emulated" if row.emulated else row.kernels
        result.add_row(row.operation, kernels, row.dtype, str(row.cases), forward, gradients, verdict)
    return result
