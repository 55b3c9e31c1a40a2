"""The races run, do the same work on both sides, and report what they should; how fast is not for a test to say."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCH / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_step_char_does_the_same_work_on_both_sides():
    result = json.loads(run("step_char.py", "--rounds", "2", "--steps", "3", "--json"))
    assert result["race"] == "step-char"
    assert result["loss_difference"] < 1e-5
    for side in ("ours", "theirs"):
        assert result[side]["quartiles"][0] <= result[side]["median"] <= result[side]["quartiles"][1]
        assert result[side]["peak_mb"] > 50
    assert result["ratio"] > 0


def test_the_curve_starts_where_nanogpt_does(data_dir):
    """4.1649: what nanoGPT's code gives for the mean of its first 20 validation batches with its seed."""
    rows = [line.split() for line in run("nanogpt_curve.py", "--max_iters", "2").splitlines()[1:]]
    assert rows == [["0", "4.1649", "4.1649"]]


def test_every_result_names_its_machine_and_versions():
    rows = list(csv.DictReader((BENCH / "results.csv").open()))
    assert rows
    assert all(row["machine"] and "torch" in row["versions"] and float(row["ratio"]) > 0 for row in rows)
