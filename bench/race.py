"""Interleaved races between processes: a machine whose speed drifts slows both sides alike.

A race is a script that calls `main`, which runs it again as one worker process per side. A worker prepares, then
does as many steps as each line of its input asks for and answers with their seconds and losses. The sides take turns,
in changing order; what counts is the ratio of their medians, round by round.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("results.csv")


def main(name: str, prepare: dict[str, Callable[[], Callable[[], float]]]) -> None:
    """Run the race `name` between the sides of `prepare`: each a function that returns a step, which returns a loss."""
    parser = argparse.ArgumentParser(description=f"The race {name}: {' against '.join(prepare)}, interleaved.")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each side")
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each side")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--record", action="store_true", help=f"append the result to {RESULTS.name}")
    parser.add_argument("--side", choices=prepare, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(prepare[arguments.side]())
        return
    result = {"race": name, **run(list(prepare), arguments)}
    if arguments.record:
        record(result, arguments)
    print(json.dumps(result) if arguments.json else report(result))


def serve(step: Callable[[], float]) -> None:
    """The worker's side: answer each number of steps with what they took."""
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(step())
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "losses": losses, "peak_mb": peak}), flush=True)


def run(sides: list[str], arguments: argparse.Namespace) -> dict:
    """Race the sides: the first over the second, by the medians of each round."""
    threads = {f"{x}_NUM_THREADS": str(arguments.threads) for x in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    workers = [
        subprocess.Popen(
            [sys.executable, sys.argv[0], "--side", side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads},
        )
        for side in sides
    ]  # fmt: skip

    def ask(worker: subprocess.Popen, steps: int) -> dict:
        worker.stdin.write(f"{steps}\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        if not answer:
            sys.exit(f"a worker of the race ended early: {worker.args}")
        return json.loads(answer)

    first = [ask(worker, arguments.steps) for worker in workers]  # compiles, and warms the caches
    difference = max(abs(a - b) for a, b in zip(*(answer["losses"] for answer in first), strict=True))
    rounds: list[list[dict]] = [[], []]
    for turn in range(arguments.rounds):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            rounds[side].append(ask(workers[side], arguments.steps))
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    medians = [[statistics.median(answer["seconds"]) for answer in side] for side in rounds]
    return {
        "ratio": statistics.median(a / b for a, b in zip(*medians, strict=True)),
        "ratio_quartiles": quartiles([a / b for a, b in zip(*medians, strict=True)]),
        **{
            key: {
                "side": side,
                "median": statistics.median(median),
                "quartiles": quartiles(median),
                "peak_mb": answers[-1]["peak_mb"],
            }
            for key, side, median, answers in zip(("ours", "theirs"), sides, medians, rounds, strict=True)
        },
        "loss_difference": difference,
        "threads": arguments.threads,
    }


def quartiles(values: list[float]) -> list[float]:
    low, _, high = statistics.quantiles(values, n=4)
    return [low, high]


def report(result: dict) -> str:
    lines = [f"{result['race']}, {result['threads']} threads; seconds a step, median [quartiles]"]
    for key in ("ours", "theirs"):
        side = result[key]
        low, high = side["quartiles"]
        lines.append(f"  {side['side']:12} {side['median']:.4f} [{low:.4f} {high:.4f}]  peak {side['peak_mb']:.0f} MB")
    low, high = result["ratio_quartiles"]
    lines.append(f"  ratio {result['ratio']:.2f} [{low:.2f} {high:.2f}]")
    lines.append(f"  losses differ by at most {result['loss_difference']:.1e}")
    return "\n".join(lines)


def record(result: dict, arguments: argparse.Namespace) -> None:
    """Append the result to the CSV, with the machine and the versions."""
    versions = {"python": platform.python_version(), **{x: version(x) for x in ("numpy", "numba", "torch")}}
    row = {
        "date": datetime.date.today().isoformat(),
        "race": result["race"],
        "ours": result["ours"]["side"],
        "theirs": result["theirs"]["side"],
        "ratio": f"{result['ratio']:.3f}",
        "ratio_quartiles": " ".join(f"{x:.3f}" for x in result["ratio_quartiles"]),
        **{f"{key}_seconds": f"{result[key]['median']:.5f}" for key in ("ours", "theirs")},
        **{f"{key}_peak_mb": f"{result[key]['peak_mb']:.0f}" for key in ("ours", "theirs")},
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "machine": processor(),
        "versions": " ".join(f"{name} {number}" for name, number in versions.items()),
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def processor() -> str:
    """The processor's name and what of it decides the speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = next((f for f in ("avx512f", "avx2", "neon") if f in facts.get("flags", "")), "")
    return f"{facts.get('model name', platform.machine())}, {os.cpu_count()} cores, {wide}"
