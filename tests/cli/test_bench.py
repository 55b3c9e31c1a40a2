"""`tinygrad-llm bench`: the list, the JSON, the record, and mistakes in one line."""

import json

import pytest

from tinygrad_llm.bench import race, races, step_char
from tinygrad_llm.cli import main

SHORT = ["bench", "step-char", "--sides", "ours,numpy", "--rounds", "1", "--steps", "1"]


def test_without_a_name_it_lists_the_races(capsys):
    assert main(["bench"]) == 0
    out = capsys.readouterr().out
    assert {"start", "step-124m", "step-baby", "step-char", "step-long", "time-to-loss"} <= races().keys()
    for name, line in races().items():
        assert f"  {name} " in out
        assert line in out
        assert len(line) < 112


def test_json_is_one_object_and_record_a_row_for_each_side(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(race, "RESULTS", tmp_path / "results.csv")
    assert main([*SHORT, "--json", "--record"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["race"] == "step-char"
    assert result["loss_difference"] < 1e-5
    assert [result[key]["side"] for key in ("ours", "theirs")] == ["ours", "numpy"]
    assert len(race.RESULTS.read_text().splitlines()) == 3


def test_the_report_is_for_people(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(race, "RESULTS", tmp_path / "results.csv")
    case = race.compare({"ours": [1.0], "numpy": [4.0]})
    monkeypatch.setattr(step_char.Race, "run", lambda r: race.result(r.name, {"": case}, threads=r.cores(), rounds=1))
    assert main([*SHORT, "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("step-char: 1 threads, 1 rounds; median [quartiles]\n  ours ")
    assert "ours over it 0.25 " in out
    assert not race.RESULTS.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sprint"], "there is no race 'sprint': choose one of"),
        (["race"], "there is no race 'race'"),
        (["step-char", "--rounds", "0"], "rounds must be at least 1, not 0"),
        (["step-char", "--steps", "few"], "steps is 'few', but must be int"),
        (["step-char", "--threads", "0"], "threads must be from 1 to"),
        (["step-char", "--sides", "ours,jax"], "there is no side 'jax': choose from ours, numpy, eager, compile"),
        (["step-char", "--sides", "ours"], "a race needs two sides, not ours"),
        (["time-to-loss", "--eval_interval", "0"], "eval_interval must be at least 1, not 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
