"""What races have in common: workers that take turns, paired ratios, the report, and a row of the CSV for each side.

The sides take turns in one run, so that a machine whose speed drifts slows all of them alike, and each round gives one
ratio. A side is compared by the median of these ratios.
"""

import contextlib
import csv
import datetime
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.training.threads import set_threads

RESULTS = Path(__file__).with_name("results.csv")
WORKER = Path(__file__).with_name("worker.py")
THEIRS = ("eager", "compile")


@dataclass(frozen=True)
class Race:
    """How to race.

    Args:
        sides: who takes part, with commas between them; the first is compared with the better of PyTorch's
        rounds: turns of each side
        steps: steps in a turn
        threads: cores that each side uses; all unless given
    """

    sides: str = "ours,eager,compile"
    rounds: int = 11
    steps: int = 5
    threads: int | None = None

    known = ("ours", "numpy", *THEIRS)

    def __post_init__(self):
        for name in ("rounds", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if unknown := [side for side in self.sides.split(",") if side not in self.known]:
            raise UserError(f"there is no side {unknown[0]!r}: choose from {', '.join(self.known)}")

    def run(self) -> dict:
        """The result, as `result` makes it."""
        raise NotImplementedError

    def available(self) -> tuple[list[str], dict[str, str]]:
        """The sides that can race here, and of the others why they cannot.

        Raises UserError for a side of PyTorch's where it is not installed, and where fewer than two sides are left.
        """
        sides, skipped = list(dict.fromkeys(self.sides.split(","))), {}
        if pytorch := [side for side in sides if side.startswith(THEIRS)]:
            require_torch(" and ".join(pytorch))
            compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
            if not shutil.which(compiler):
                skipped = {s: f"torch.compile needs the C++ compiler {compiler}" for s in sides if "compile" in s}
        sides = [side for side in sides if side not in skipped]
        if len(sides) < 2:
            raise UserError("; ".join([f"a race needs two sides, not {self.sides}", *skipped.values()]))
        return sides, skipped

    @property
    def name(self) -> str:
        """That of the file, as in `tinygrad-llm bench NAME`."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    def cores(self) -> int:
        """How many threads each side has. Raises UserError for more than there are cores."""
        return set_threads(self.threads)


def require_torch(what: str) -> None:
    """Raise UserError where PyTorch is not installed."""
    if not util.find_spec("torch"):
        raise UserError(f"PyTorch is missing, for {what}: pip install 'tinygrad-llm[torch]'")


class Worker:
    """A process that does the turns of a side: `script SIDE FOLDER`, which ends in `worker.serve`."""

    def __init__(self, side: str, folder: Path, threads: int, environment: dict | None = None, script: Path = WORKER):
        self.side = side
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, as __exit__ closes it
        counts = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
        self.process = subprocess.Popen(
            [sys.executable, script, side, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **counts, **(environment or {})},
        )

    def turn(self, steps: int) -> dict:
        """The worker's answer: seconds and losses, one a step each, and peak memory. Raises UserError if it dies."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            last = self.errors.read().strip().rpartition("\n")[2] or f"exit status {self.process.wait()}"
            raise UserError(f"the side {self.side} ended early: {last}")
        return json.loads(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind:
            self.process.terminate()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def compare(values: dict[str, list[float]], peaks: dict[str, float] | None = None, unit: str = "s") -> dict:
    """The first side beside the others, from one number a round of each, and the peaks of their memory in MB.

    Each side's `ratio` is the first one's number over its own, the median of the rounds. `theirs` is PyTorch's side
    with the lower median, or the other side with the lowest where none is PyTorch's.
    """
    first, *others = values
    sides = {}
    for side, numbers in values.items():
        low, median, high = np.percentile(numbers, (25, 50, 75)).tolist()
        ratio_low, ratio, ratio_high = np.percentile(np.divide(values[first], numbers), (25, 50, 75)).tolist()
        sides[side] = {
            "side": side,
            "median": median,
            "quartiles": [low, high],
            "peak_mb": (peaks or {}).get(side),
            "ratio": ratio,
            "ratio_quartiles": [ratio_low, ratio_high],
        }
    best = min([side for side in others if side in THEIRS] or others, key=lambda side: sides[side]["median"])
    theirs = sides[best]
    summary = {"ratio": theirs["ratio"], "ratio_quartiles": theirs["ratio_quartiles"], "unit": unit}
    return summary | {"ours": sides[first], "theirs": theirs, "sides": sides}


def result(race: str, cases: dict[str, dict], **settings) -> dict:
    """What `--json` prints: the race, its settings, where it was run, and what `compare` says of each case.

    The comparison stands in the object itself where a race has one case, called "".
    """
    versions = {"python": platform.python_version()}
    for name in ("numpy", "numba", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    where = {"date": datetime.date.today().isoformat(), "machine": processor(), "versions": versions}
    return {"race": race, **(cases[""] if [*cases] == [""] else {"cases": cases}), **settings, **where}


def report(result: dict) -> str:
    """The result for people."""
    details = [f"{result[key]} {key}" for key in ("threads", "rounds", "steps") if key in result]
    lines = [f"{result['race']}: {', '.join(details)}; median [quartiles]"]
    for case, comparison in result.get("cases", {"": result}).items():
        unit, ours = comparison["unit"], comparison["ours"]["side"]
        lines += [case] if case else []
        for side in comparison["sides"].values():
            low, high = side["quartiles"]
            line = f"  {side['side']:12} {side['median']:10.4g} [{low:.4g} {high:.4g}] {unit}"
            line += f", peak {side['peak_mb']:.0f} MB" if side["peak_mb"] else ""
            if side["side"] != ours:
                low, high = side["ratio_quartiles"]
                line += f"; {ours} over it {side['ratio']:.2f} [{low:.2f} {high:.2f}]"
            lines.append(line)
    lines += [f"  {side:12} skipped: {reason}" for side, reason in result.get("skipped", {}).items()]
    if "loss_difference" in result:
        lines.append(f"  {result['losses_compared']} losses differ by at most {result['loss_difference']:.1e}")
    return "\n".join(lines)


def record(result: dict) -> None:
    """Append a row for each side to the CSV."""
    rows = [
        {
            "date": result["date"],
            "race": result["race"],
            "case": case,
            "side": side["side"],
            "unit": comparison["unit"],
            **columns(side, "median", "quartiles", ""),
            **columns(side, "ratio", "ratio_quartiles", "ratio_"),
            "peak_mb": f"{side['peak_mb']:.0f}" if side["peak_mb"] else "",
            **{key: result.get(key, "") for key in ("rounds", "steps", "threads", "machine")},
            "versions": " ".join(f"{name} {number}" for name, number in result["versions"].items()),
        }
        for case, comparison in result.get("cases", {"": result}).items()
        for side in comparison["sides"].values()
    ]
    text = io.StringIO(RESULTS.read_text() if RESULTS.exists() else "")
    text.seek(0, io.SEEK_END)
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    if not text.tell():
        writer.writeheader()
    writer.writerows(rows)
    write_atomic(RESULTS, text.getvalue())


def columns(side: dict, middle: str, quartiles: str, prefix: str) -> dict[str, str]:
    """A median and its quartiles as columns of the CSV."""
    low, high = side[quartiles]
    values = {middle: side[middle], f"{prefix}low": low, f"{prefix}high": high}
    return {name: f"{value:.4g}" for name, value in values.items()}


def processor() -> str:
    """The processor's name and what of it decides the speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = next((f for f in ("avx512f", "avx2", "neon") if f in facts.get("flags", "")), "")
    return f"{facts.get('model name', platform.machine())}, {os.cpu_count()} cores, {wide}"
