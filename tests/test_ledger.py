"""The ledger has a row for all that is compared, the page and the README's table are made from it, and a row that gets
worse is seen."""

import math
import re

import pytest

from tinygrad_llm import UserError, ledger, ledger_page
from tinygrad_llm.cli import main
from tinygrad_llm.verification import Comparison, compare

RECORDED = ledger.read()
LESS_EXACT_TANH = """
import numpy as np
from tinygrad_llm.ops.tanh import tanh_backward

def tanh_forward(x):
    y = np.tanh(x)
    mantissa, exponent = np.frexp(y)
    return np.ldexp(np.rint(mantissa * 2**21) / 2**21, exponent).astype(x.dtype), y
"""


@pytest.mark.parametrize("suite", ["oracle", "derivation", "differences"])
def test_there_is_a_row_for_all_that_is_compared(suite):
    assert {key[1:] for key in RECORDED if key[0] == suite} == set(ledger.suite(suite).pairs())


def test_what_failed_when_it_was_recorded_has_a_reason():
    assert {row.operation for row in RECORDED.values() if row.failures} <= ledger_page.WHY.keys()


def test_the_page_is_made_from_the_ledger():
    """Where not: python -m tinygrad_llm.ledger_page."""
    rows = list(RECORDED.values())
    assert ledger.LEDGER.with_name("verification.md").read_text() == ledger_page.page(rows)
    readme = ledger.LEDGER.parents[1].joinpath("README.md").read_text()
    between = re.findall(f"{ledger_page.BEGIN}\n(.*?){ledger_page.END}", readme, re.DOTALL)
    assert between == [ledger_page.summary(rows)]


def test_a_loss_of_precision_that_the_rule_allows_is_seen(tmp_path):
    kernel = tmp_path / "tanh.py"
    kernel.write_text(LESS_EXACT_TANH)
    found = compare("tanh", str(kernel), "float32")
    assert found.failures == []
    words = ledger.worse(ledger.row(found), RECORDED["oracle", "tanh", "numpy", "float32"])
    assert words.startswith("forward off by ")
    assert "record it with tinygrad-llm verify tanh" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cases": 1}, "1 cases, recorded "),
        ({"left_out": 1}, "1 cases left out, recorded 0"),
        ({"failures": 2}, "2 failures, recorded 0"),
        ({"forward_largest": 1e-9}, "forward off by 1.0e-09, recorded "),
        ({"gradients_largest": math.inf}, "gradients off by inf, recorded "),
        ({"gradients_largest": 0.0, "cases": 10**6}, ""),
    ],
)
def test_in_what_a_row_is_worse(change, words):
    recorded = RECORDED["oracle", "softmax", "numpy", "float64"]
    assert ledger.worse(recorded, recorded) == ""
    found = ledger.worse(recorded._replace(**change), recorded)
    assert found.startswith(words) and bool(found) == bool(words)


def test_ratios():
    """Twice PyTorch's error where both are large, as exact as PyTorch where both are below the last place."""
    found = Comparison("exp", "numpy", "float32", errors={"y": [2e-3, 0.0]}, theirs={"y": [1e-3, 0.0]})
    assert found.ratios == {"y": pytest.approx(math.sqrt(2), rel=1e-4)}
    assert Comparison("exp", "numpy", "float64", errors={"y": [1e-16]}).ratios == {}


def test_what_is_recorded_is_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "LEDGER", tmp_path / "docs" / "ledger.csv")
    readme = tmp_path / "README.md"
    readme.write_text(f"Before\n{ledger_page.BEGIN}\nnothing\n{ledger_page.END}\nafter\n")
    arguments = ["verify", "exp", "--kernels", "numpy", "--seeds", "2"]
    assert main([*arguments, "--check"]) == 2
    assert "there is no ledger" in capsys.readouterr().err
    assert main([*arguments, "--record"]) == 2
    assert "it is kept in a checkout of the source" in capsys.readouterr().err
    ledger.LEDGER.parent.mkdir()
    assert main([*arguments, "--record"]) == 0
    assert main([*arguments, "--check"]) == 0
    rows = list(ledger.read().values())
    assert [(row.key, row.seeds) for row in rows] == [
        (("oracle", "exp", "numpy", "float32"), 2),
        (("oracle", "exp", "numpy", "float64"), 2),
    ]
    assert readme.read_text() == f"Before\n{ledger_page.BEGIN}\n{ledger_page.summary(rows)}{ledger_page.END}\nafter\n"
    ledger.write([rows[0], rows[1]._replace(cases=10**6)])
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    assert "oracle exp numpy float64: 5 cases, recorded 1000000; if it must be so, record it" in capsys.readouterr().out
    assert main(["verify", "tanh", "--kernels", "numpy", "--check"]) == 1
    assert "oracle tanh numpy float32: not in the ledger; record it with" in capsys.readouterr().out


def test_the_ledger_is_of_our_own_kernels(tmp_path, capsys):
    kernel = tmp_path / "tanh.py"
    kernel.write_text(LESS_EXACT_TANH)
    before = ledger.LEDGER.read_text()
    assert main(["verify", "tanh", "--kernels", str(kernel), "--record"]) == 2
    assert "the ledger is of the built-in kernel sets" in capsys.readouterr().err
    assert ledger.LEDGER.read_text() == before
    with pytest.raises(UserError, match="no suite is called oracles"):
        ledger.suite("oracles")
