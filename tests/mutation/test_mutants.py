"""Mutants: what the operators make of a line, and that the cases of a few operations kill theirs."""

import ast
from pathlib import Path

import numpy as np
import pytest

from tinygrad_llm import ledger, mutation, ops
from tinygrad_llm.cli import main
from tinygrad_llm.mutation import Mutant, argued, host, interpreted
from tinygrad_llm.mutation.changes import changes

LINES = {
    "y = x - mean": ["«x → »- mean", "x« - mean → »", "x «- → +» mean"],
    "y = a * b": ["«a * → »b", "a« * b → »", "a «* → /» b"],
    "y = -x": ["y = «- → »x"],
    "y = 0.5": ["«0.5 → 1.0»"],
    "y = x.sum(axis=-1, keepdims=True)": [
        *("x.«sum → mean»(axis", "«axis=-1, → »keepdims", "axis=«- → »1", "-«1 → 0»", "«, keepdims=True → »"),
        *("keepdims=«True → False»", "x«.sum(axis=-1, keepdims=True) → »"),
    ],
    "total += x": ["«+= → =»", "«+= → -=»", "«total += x → pass»"],
    "s = np.where(mask, s, -np.inf)": [
        "«-np.inf → -1e4»",
        "«-np.inf → 0.0»",
        "«s = np.where(mask, s, -np.inf) → pass»",
    ],
    "np.add.at(dw, ids, dy)": ["→ dw[ids] = dy»", "→ dw[ids] += dy»", "→ np.subtract.at(dw, ids, dy)»"],
    "if i < n and not j: k()": [
        "i «< → <=» n",
        "«and → or»",
        "«not → »j",
        "«i < n and → »",
        "«k() → pass»",
        " → True»",
    ],
    "for i in range(n): f(i)": ["range(« → 1, »n)", "range(«n → n - 1»)"],
    "for i in range(0, n, step): f(i)": ["«n → n - step»"],
    "y = x.T @ x.swapaxes(-1, -2)": ["x«.T → »", "x«.swapaxes(-1, -2) → »"],
    "y = x[1:n].astype(dtype)": ["«1 → »", "«1 → 2»", "«n → n - 1»", "«n → »", "«.astype(dtype) → »"],
    "return dx, f(dy) if needs else None": [
        "«dx → -dx»",
        "«f(dy) if needs else → »None",
        "f(dy)« if needs else None → »",
    ],
}
SILENT = ['"""x + 1"""', 'raise ValueError("1 + 1")', "x: int = 1", "prefetch(x, i + 1)", "import a.b as c"]
QUICK = ["add", "cross_entropy", "embedding", "layernorm", "rmsnorm", "rotary", "swiglu"]
OTHERS = [name for name in mutation.names("numba") if name not in QUICK]
SMALL = ["add", "layernorm", "softmax", "embedding", "relu", "gelu", "tril", "where"]


@pytest.mark.parametrize("line", LINES)
def test_what_is_made_of_a_line(line):
    found = [change.what for change in changes(f"def f():\n    {line}\n")]
    assert [what for what in LINES[line] if not any(what in each for each in found)] == []


@pytest.mark.parametrize("line", SILENT)
def test_what_has_no_result_is_left_alone(line):
    assert changes(f"def f():\n    {line}\n") == []


@pytest.mark.parametrize("kernel_set", ["numpy", "numba", "torch"])
def test_every_mutant_is_a_program_of_its_own(kernel_set):
    for name in mutation.names(kernel_set):
        found = mutation.mutants(name, kernel_set)
        assert len({mutant.source for mutant in found}) == len(found) > 3
        ast.parse(found[len(found) // 2].source)


@pytest.mark.parametrize("name", SMALL)
def test_no_mutant_of_a_small_page_survives(name):
    survivors = [mutant.what for mutant, verdict in mutation.judged(name, "numpy") if verdict == "survived"]
    assert survivors == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in mutation.names("numpy") if name not in SMALL])
def test_no_mutant_of_a_page_survives(name):
    test_no_mutant_of_a_small_page_survives(name)


@pytest.mark.parametrize("name", QUICK + [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS])
def test_a_kernel_of_numbas_agrees_with_pytorch_when_interpreted(name):
    file = host.path("numba", name)
    assert host.verdict("numba", file, file.read_text()) == "survived"


@pytest.mark.parametrize("name", ["attention", "linear"])
def test_a_kernel_of_pytorchs_agrees_with_it_in_a_process_of_its_own(name):
    file = host.path("torch", name)
    assert host.verdict("torch", file, file.read_text()) == "survived"
    assert host.verdict("torch", file, "import os\n\nos.abort()\n") == "killed by a crash"


def test_what_no_result_shows_is_an_error_when_interpreted():
    """Parts that overlap, and accesses outside."""
    file = host.path("numba", "swiglu")
    source = file.read_text()
    assert "two threads" in host.verdict("numba", file, source.replace("gate.size * part // parts", "0"))
    assert "killed" in host.verdict("numba", file, source.replace("range(ys.size)", "range(ys.size + 1)"))
    with pytest.raises(IndexError, match="-1 to 3 of 4"):
        interpreted.at(np.ones(4), -1, 4)


def test_a_mutant_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(host, "SECONDS", 0.5)
    file = Path(ops.__file__).with_name("relu.py")
    source = file.read_text().replace("def relu_forward(x):\n", "def relu_forward(x):\n    while True:\n        pass\n")
    assert host.verdict("numpy", file, source).startswith("killed by the clock")


def test_every_argument_is_of_a_mutant_that_there_is():
    """And of no other: who changes a line looks at its arguments again."""
    there = {
        (mutant.label, mutant.what)
        for kernel_set in ("numpy", "numba", "torch")
        for name in mutation.names(kernel_set)
        for mutant in mutation.mutants(name, kernel_set)
    }
    of_python = {key for key in argued() if key[0].endswith(".py")}
    assert of_python - there == set()
    assert all(argument for argument in argued().values())


def test_the_command_counts_and_records(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(mutation, "RECORD", tmp_path / "mutants.csv")
    monkeypatch.setattr(ledger, "LEDGER", tmp_path / "docs" / "ledger.csv")
    ledger.LEDGER.parent.mkdir()
    ledger.write([])
    (tmp_path / "README.md").touch()
    assert main(["mutate", "relu", "exp", "--record"]) == 0
    assert "relu" in capsys.readouterr().out
    tally = mutation.recorded()["relu", "numpy"]
    assert tally.made == tally.killed > 5
    assert ("gelu", "numpy") not in mutation.recorded()


def test_what_is_not_there_is_said_in_a_line(monkeypatch, tmp_path, capsys):
    assert main(["mutate", "nothing"]) == 2
    assert "no file of numpy is called nothing; there are abs, add" in capsys.readouterr().err
    monkeypatch.setattr(ledger, "LEDGER", tmp_path / "docs" / "ledger.csv")
    assert main(["mutate", "exp", "--record"]) == 2
    assert "kept in a checkout" in capsys.readouterr().err


def test_a_file_that_is_wrong_itself_has_no_mutants(monkeypatch, tmp_path, capsys):
    wrong = tmp_path / "exp.py"
    wrong.write_text(host.path("numpy", "exp").read_text().replace("dy * y", "dy / y"))
    monkeypatch.setattr(host, "path", lambda kernel_set, name: wrong)
    assert main(["mutate", "exp"]) == 2
    assert f"{wrong} itself is killed by exp, case 0" in capsys.readouterr().err


def test_a_survivor_is_printed_and_fails(monkeypatch, capsys):
    mutant = Mutant("numpy", Path("ops/exp.py"), 12, "y = «x → -x»", "")
    monkeypatch.setattr(mutation, "judged", lambda name, kernel_set: [(mutant, "survived")])
    assert main(["mutate", "exp", "--survivors"]) == 1
    assert "ops/exp.py:12: y = «x → -x»" in capsys.readouterr().out
