"""`tinygrad-llm verify`: the table, the JSON, a kernel of one's own, right and wrong."""

import json

import pytest

from tinygrad_llm import UserError, devices
from tinygrad_llm.cli import main
from tinygrad_llm.reference import ORACLES

FAULTY = '''
from tinygrad_llm.ops.exp import exp_forward

def exp_backward(dy, y):
    return dy
'''


def emulator_is_needed() -> bool:
    try:
        return not devices.cupy()
    except UserError:
        return True


def test_the_table_has_a_row_for_every_pair(capsys):
    assert main(["verify", "gelu", "exp"]) == 0
    out = capsys.readouterr().out
    assert out.count(" ok") == 11  # gelu by numpy, numba and torch, exp by numpy, in two dtypes; gelu by cuda in three
    cases = 9 * len(ORACLES["gelu"].cases) + 2 * len(ORACLES["exp"].cases)
    assert f"11 pairs compared on {cases} cases: none failed" in out
    assert ("cuda: on the emulator" in out) == emulator_is_needed()


def test_json_says_the_same(capsys):
    assert main(["verify", "exp", "--json", "--kernels", "numpy", "--seeds", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["operation"], row["kernels"], row["dtype"], row["passed"]) for row in rows] == [
        ("exp", "numpy", "float64", True),
        ("exp", "numpy", "float32", True),
    ]
    assert rows[0]["cases"] == 2 * len(ORACLES["exp"].cases)
    assert set(rows[0]["errors"]) == {"y", "dx"}
    assert 0 < rows[1]["errors"]["y"] < 1e-6


def test_a_faulty_kernel_fails_and_the_fault_is_named(capsys, tmp_path):
    kernel = tmp_path / "exp.py"
    kernel.write_text(FAULTY)
    assert main(["verify", "exp", "--kernels", str(kernel)]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "dx is off by" in out
    kernel.write_text(FAULTY.replace("return dy", "return dy * y"))
    assert main(["verify", "exp", "--kernels", str(kernel)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exponential"], "no operation is called exponential"),
        (["exp", "--kernels", "nowhere"], "no kernel set 'nowhere'"),
        (["exp", "--kernels", "numba"], "numba have no kernel for exp"),
        (["gelu", "--kernels", "cuda", "--suite", "differences"], "differences has nothing to compare of gelu"),
        (["--suite", "oracles"], "no suite is called oracles; there are oracle, op_db"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, arguments, message):
    assert main(["verify", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
