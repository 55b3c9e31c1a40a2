"""`tinygrad-llm explain`: a page from the source itself, and what a model's operations keep."""

import json

import pytest

from tinygrad_llm import activations, autograd, ops
from tinygrad_llm.cli import main
from tinygrad_llm.cli.explain import faults_of, kernel_files, preset, summary
from tinygrad_llm.verification import operations


def test_a_page_has_the_derivation_both_functions_kernels_oracle_tests_and_work(capsys):
    assert main(["explain", "layernorm"]) == 0
    out = capsys.readouterr().out
    parts = [
        "tinygrad_llm/ops/layernorm.py", "dx = rstd (g - mean(g) - xhat mean(g xhat))", "forward and backward",
        "def layernorm_forward(x, weight, bias, eps=1e-5)", "def layernorm_backward(", "kernels",
        "kernels/cuda/layernorm.cu", "kernels/numba/layernorm.py", "kernels/torch/layernorm.py", "PyTorch's side",
        "reference/layers.py", "layer_norm", "tests/ops/test_operations.py", "a planted fault, cuda",
        "no matrix products",
    ]  # fmt: skip
    places = [out.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places[:3] == sorted(places[:3])


def test_json_says_the_same(capsys):
    assert main(["explain", "linear", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["derivation"] == ops.linear.__doc__
    assert page["backward"].startswith("def linear_backward(")
    assert page["oracle"]["cases"] > 0
    assert set(page["faults"]) == {"numpy", "numba", "torch", "cuda"}
    assert "products" in page["work"]


def test_every_kernel_and_every_table_of_faults_says_what_it_is():
    for name in operations():
        assert faults_of(name)["numpy"]
        for path in kernel_files(name):
            assert summary(path), path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layernrm"], "no operation is called 'layernrm'; did you mean layernorm"),
        (["zzz"], "no operation is called 'zzz'; there are abs, add"),
        ([], "give an operation, layernorm say, or a model"),
        (["exp", "--memory", "tiny"], "give an operation, layernorm say, or a model"),
        (["--memory", "huge"], "there is no model 'huge': choose one of gpt2"),
        (["--memory", "tiny", "--block_size", "33"], "in a row at most 32"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, arguments, message):
    assert main(["explain", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_table_of_memory_has_a_line_for_each_operation_of_a_layer(capsys):
    assert main(["explain", "--memory", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "0, … 1" in out and "attention_qkvpacked" in out and "all layers" in out
    assert main(["explain", "--memory", "tiny", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["layer"] for row in rows} == {"0", "1", "model"}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("large", "floats"), [(2**20, 12), (0, 10)])  # a token; the norms' results are made again
def test_what_is_predicted_is_what_is_measured(monkeypatch, batch_size, large, floats):
    monkeypatch.setattr(autograd, "LARGE", large)
    model = preset("tiny")
    rows = activations.ledger(model, batch_size, 9)  # arrays too small to begin at a page
    assert "forward" not in vars(model.blocks[0])  # nothing is left behind
    for row in rows:
        if row.predicted is not None and row.layer != "model":
            assert row.measured == row.predicted, row
    c, tokens = model.config, batch_size * 9
    for layer in "01":  # so many B T C, each norm's mean and rstd, and each head's lse
        kept = sum(row.measured for row in rows if row.layer == layer)
        assert kept == 4 * tokens * (floats * c.n_embd + 4 + c.n_head)
