"""`tinygrad-llm kernel`"""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from inspect import getdoc
from itertools import groupby
from typing import Literal

from rich.console import Console
from rich.table import Table

from tinygrad_llm import lab
from tinygrad_llm.bench.race import report
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.lab.cards import LABEL, Estimate

HELP = """usage: tinygrad-llm kernel new|check|race|roofline ...

A lab for kernels of one's own, CUDA's without a GPU (pip install 'tinygrad-llm[lab,torch]').

  new       write a commented file to begin with
  check     compile it, run it on an emulator, compare it with PyTorch, look for races and overruns
  race      time all kernels of an operation on this machine's real devices
  roofline  what the operation costs on a GPU at least, on paper

examples:
  tinygrad-llm kernel new layernorm
  tinygrad-llm kernel check layernorm.cu
  tinygrad-llm kernel check mine.cu --operation layernorm --json
  tinygrad-llm kernel race layernorm
  tinygrad-llm kernel roofline layernorm --card h100
  tinygrad-llm kernel ACTION --help

docs/tutorial-kernels.md goes from a plain layernorm to a vectorized one.
"""


@dataclass(frozen=True)
class New:
    """What to write.

    Args:
        out: the file; OPERATION.cu or OPERATION.py unless given
        language: cuda, or python, for Numba say
    """

    out: str | None = None
    language: Literal["cuda", "python"] = "cuda"


@dataclass(frozen=True)
class Check:
    """How to check.

    Args:
        operation: what the kernel computes, where the file's name does not say
        sanitize: whether a .cu runs under the thread and the address sanitizer too, which takes most of the time
    """

    operation: str | None = None
    sanitize: bool = True


@dataclass(frozen=True)
class Roofline:
    """On which card.

    Args:
        card: t4, a100, rtx4090, h100 or b200, or several with commas between them; all unless given
        models: whose shapes, with commas between them
    """

    card: str | None = None
    models: str = "124m,smollm2"


def run(argv: list[str]) -> int:
    actions = {"new": new, "check": check, "race": race, "roofline": roofline}
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if action not in actions:
        raise lab.UserError(f"kernel has no action {action!r}: choose one of {', '.join(actions)}")
    return actions[action](rest)


def new(argv: list[str]) -> int:
    operation, settings, _ = _parse("new", lab.new, New, "OPERATION", argv, as_json=False)
    paths = lab.new(operation, **settings)
    print(f"{' and '.join(map(str, paths))} written; next: tinygrad-llm kernel check {paths[0]}")
    return 0


def check(argv: list[str]) -> int:
    file, settings, as_json = _parse("check", lab.check, Check, "FILE", argv)
    console = Console(stderr=True)
    with console.status("checking") if console.is_terminal else nullcontext():
        found = lab.check(file, **settings)
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        Console().print(found, soft_wrap=True)
    return int(not found.passed)


def race(argv: list[str]) -> int:
    name, settings, as_json = _parse("race", lab.race, lab.Race, "OPERATION|FILE", argv, skip={"operations"})
    result = lab.race(name, **settings)
    print(json.dumps(result) if as_json else report(result))
    return 0


def roofline(argv: list[str]) -> int:
    operation, settings, as_json = _parse("roofline", lab.roofline, Roofline, "OPERATION", argv)
    cards = settings["card"].split(",") if settings["card"] else None
    estimates = lab.roofline(operation, cards, settings["models"].split(","))
    if as_json:
        print(json.dumps({"label": LABEL, "estimates": [asdict(e) for e in estimates]}))
    else:
        Console().print(*_tables(estimates), f"At least, in μs: float32 / 16 bits on tensor cores; {LABEL}.", sep="\n")
    return 0


def _parse(action: str, function: Callable, settings: type, what: str, argv: list[str], as_json=True, skip=None):
    description = getdoc(function).rpartition("\n\n")[0]  # the last paragraph is on results and errors in Python
    parser = Parser(f"kernel {action}", description, positional=what)
    parser.add_class_arguments(settings, as_group=False, skip=skip)
    parser.add_argument("what", metavar=what)
    if as_json:
        parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    found = parser.settings(argv)
    return found.pop("what"), found, found.pop("json", False)


def _tables(estimates: list[Estimate]) -> Iterator[Table]:
    """One for each call: the work of its phases, and by card the least time for that."""
    for case, group in groupby(estimates, lambda e: e.case):
        calls = list(group)
        phases = {e.phase: f"{_digits(e.bytes / 1e6)} MB, {_digits(e.flops / 1e9)} GFLOP" for e in calls}
        table = Table("", *(f"{phase}\n{work}" for phase, work in phases.items()), title=case, title_justify="left")
        for card in dict.fromkeys(e.card for e in calls):
            on_it = [(e.float32_seconds, e.tensor_seconds) for e in calls if e.card == card]
            table.add_row(card, *(" / ".join(_digits(seconds * 1e6) for seconds in pair) for pair in on_it))
        yield table


def _digits(x: float) -> str:
    """Three of them."""
    return f"{float(f'{x:.3g}'):,g}"
