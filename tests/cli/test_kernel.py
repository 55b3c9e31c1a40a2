"""`tinygrad-llm kernel`: the report and its JSON, races and rooflines, and mistakes in one line."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tinygrad_llm import lab
from tinygrad_llm.bench.race import report
from tinygrad_llm.cli import main
from tinygrad_llm.lab.race import sides


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_faulty_kernel_fails(capsys):
    assert main(["kernel", "new", "tanh", "--language", "python"]) == 0
    assert "tanh.py written; next: tinygrad-llm kernel check tanh.py" in capsys.readouterr().out
    faulty = Path("my_function.py")
    faulty.write_text(Path("tanh.py").read_text().replace("1 - y * y", "1 - y"))
    assert main(["kernel", "check", str(faulty), "--operation", "tanh", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert list(report)[:2] == ["passed", "verdict"] and not report["passed"]
    (finding,) = report["findings"]
    assert finding["kind"] == "value" and "should be" in finding["message"] and finding["advice"]


def test_a_race_has_every_pair_that_can_run_here(capsys):
    assert {"numba", "numpy", "eager"} <= set(sides("layernorm")) and "cuda" not in sides("layernorm")
    assert "numba" not in sides("tanh")
    assert main(["kernel", "new", "layernorm", "--language", "python", "--out", "my_layernorm.py"]) == 0
    flags = ["--models", "char", "--rounds", "1", "--steps", "1", "--sides", "my_layernorm.py,numba,eager"]
    capsys.readouterr()
    assert main(["kernel", "race", "my_layernorm.py", *flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [case.split()[:2] for case in result["cases"]] == [["char", "layernorm"]] * 2
    assert set(next(iter(result["cases"].values()))["sides"]) == {"my_layernorm.py", "numba", "eager", "limit"}
    assert "my_layernorm.py over it" in report(result)


def test_a_roofline_says_that_it_is_a_model(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["kernel", "roofline", "layernorm", "--models", "char"]) == 0
    out = capsys.readouterr().out
    assert "not a measurement" in out
    assert all(f"│ {card.name} " in out for card in lab.CARDS.values()), "nothing is folded"
    assert main(["kernel", "roofline", "layernorm", "--models", "char", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "not a measurement" in result["label"]
    assert len(result["estimates"]) == 2 * 5


def test_without_an_action_it_lists_them(capsys):
    assert main(["kernel"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {action} " in out for action in ("new", "check", "race", "roofline"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "kernel has no action 'run': choose one of new, check, race, roofline"),
        (["check", "gelu.cu"], "there is no file gelu.cu"),
        (["check", "made.py", "--operation", "made"], "no operation is called made"),
        (["check", "made.py"], "made.py is not named after an operation: add --operation"),
        (["new", "norm"], "no operation is called norm"),
        (["new", "gelu", "--language", "c"], "language is 'c', but must be"),
        (["race", "norm"], "no operation is called norm"),
        (["race", "gelu.cu"], "there is no file gelu.cu"),
        (["race", "gelu", "--sides", "numba,jax"], "there is no side 'jax': choose from numba"),
        (["race", "gelu", "--operations", "exp"], "there is no setting '--operations'"),
        (["roofline", "gelu", "--card", "h200"], "there are no figures for the card 'h200'"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, arguments, message):
    Path("made.py").write_text("")
    assert main(["kernel", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_is_not_installed_is_said(capsys, monkeypatch):
    """No compiler, no PyTorch: one line each, with what to install."""
    Path("gelu.cu").write_text("")
    monkeypatch.setenv("PATH", "")
    compiler_version = import_module("tinygrad_llm.kernels.cuda.emulator.build")._compiler_version
    compiler_version.cache_clear()
    assert main(["kernel", "check", "gelu.cu"]) == 2
    assert "g++: install it" in capsys.readouterr().err
    compiler_version.cache_clear()
    for name in [name for name in sys.modules if name.startswith("tinygrad_llm.reference")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["kernel", "check", "gelu.cu"]) == 2
    assert "PyTorch is the oracle and is not installed" in capsys.readouterr().err
