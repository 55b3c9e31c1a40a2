"""What races have in common: ratios round by round, workers that die, sides that cannot race, the CSV."""

import csv
import io
from importlib import util

import pytest

from tinygrad_llm import UserError
from tinygrad_llm.bench import race

COLUMNS = (
    *("date", "race", "case", "side", "unit", "median", "low", "high", "ratio", "ratio_low", "ratio_high"),
    *("peak_mb", "rounds", "steps", "threads", "machine", "versions"),
)


def test_ratios_are_paired_and_over_the_better_of_pytorch():
    """The machine slows down from round to round, all sides alike: the ratios do not see it."""
    shares = {"a": 3, "eager": 6, "compile": 5, "limit": 1}
    values = {side: [share * slower for slower in (1.0, 2.0, 4.0)] for side, share in shares.items()}
    comparison = race.compare(values, {"a": 100.0}, unit="ms")
    assert comparison["ratio"] == pytest.approx(3 / 5)
    assert comparison["ratio_quartiles"] == pytest.approx([3 / 5, 3 / 5])
    assert comparison["unit"] == "ms"
    assert comparison["theirs"]["side"] == "compile"
    ours = {"side": "a", "median": 6.0, "quartiles": [4.5, 9.0], "peak_mb": 100.0}
    assert comparison["ours"] == ours | {"ratio": 1.0, "ratio_quartiles": [1.0, 1.0]}
    assert comparison["sides"]["limit"]["ratio"] == pytest.approx(3)


def test_without_pytorch_the_best_of_the_others_is_theirs():
    comparison = race.compare({"ours": [1.0], "numpy": [4.0], "mine": [2.0]})
    assert (comparison["theirs"]["side"], comparison["ratio"]) == ("mine", 0.5)


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("import os; input(); os.write(2, b'a warning\\n'); raise ValueError('no luck')", "ValueError: no luck"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
def test_a_worker_that_dies_says_who_and_why(tmp_path, code, last):
    script = tmp_path / "dies.py"
    script.write_text(code)
    message = f"^the side eager ended early: {last}$"
    with race.Worker("eager", tmp_path, 1, script=script) as worker, pytest.raises(UserError, match=message):
        worker.turn(1)


def test_compile_is_skipped_with_a_reason_where_no_compiler_is(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    sides, skipped = race.Race().available()
    assert sides == ["ours", "eager"]
    assert skipped == {"compile": "torch.compile needs the C++ compiler no-such-compiler"}
    result = race.result("r", {"": race.compare({"ours": [1.0], "eager": [2.0]})}, skipped=skipped)
    assert "compile      skipped: torch.compile needs the C++ compiler no-such-compiler" in race.report(result)
    with pytest.raises(UserError, match=r"two sides, not ours,compile; torch\.compile needs"):
        race.Race("ours,compile").available()


def test_pytorch_missing_names_the_extra(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"missing, for eager and compile: pip install 'tinygrad-llm\[torch\]'"):
        race.Race().available()
    assert race.Race("ours,numpy").available() == (["ours", "numpy"], {})


def test_a_row_for_each_side_of_each_case(monkeypatch, tmp_path):
    monkeypatch.setattr(race, "RESULTS", tmp_path / "results.csv")
    comparison = race.compare({"ours": [1.0, 2.0], "eager": [2.0, 2.0]}, {"ours": 99.9})
    race.record(race.result("one", {"": comparison}, rounds=2, steps=3, threads=1))
    race.record(race.result("two", {"x": comparison, "y": comparison}, rounds=2, threads=1))
    rows = list(csv.DictReader(io.StringIO(race.RESULTS.read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["race"], row["case"], row["side"]) for row in rows] == [
        *(("one", "", side) for side in ("ours", "eager")),
        *(("two", case, side) for case in "xy" for side in ("ours", "eager")),
    ]
    assert (rows[0]["median"], rows[0]["low"], rows[0]["high"], rows[0]["peak_mb"]) == ("1.5", "1.25", "1.75", "100")
    assert (rows[1]["ratio"], rows[1]["ratio_low"], rows[1]["ratio_high"]) == ("0.75", "0.625", "0.875")
    assert (rows[1]["rounds"], rows[1]["steps"], rows[1]["threads"], rows[1]["peak_mb"]) == ("2", "3", "1", "")
    assert rows[2]["steps"] == ""


def test_every_committed_result_names_its_machine_and_versions():
    rows = list(csv.DictReader(race.RESULTS.open()))
    assert rows
    assert tuple(rows[0]) == COLUMNS
    assert all(row["machine"] and "torch" in row["versions"] and float(row["ratio"]) > 0 for row in rows)
