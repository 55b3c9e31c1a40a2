"""A profile accounts for all of a step, nests, and leaves the training as it is."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tinygrad_llm import Function, Tensor, kernels, roofline
from tinygrad_llm.cli import main
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim import AdamW
from tinygrad_llm.profiling import REST, profile


@pytest.fixture(autouse=True)
def computer(monkeypatch):
    """A machine on which a second is 10^9 operations or bytes, so that none is measured here."""
    monkeypatch.setattr(roofline, "machine", lambda: roofline.Machine(2, 1e9, 1e9))
    with kernels.use("numpy"):
        yield


@pytest.fixture
def profiled() -> profile:
    """Two steps of a small model, each of two micro-batches."""
    model = GPT(GPTConfig(vocab_size=7, block_size=5, n_layer=2, n_head=2, n_embd=8))
    optimizer = AdamW(model.parameters())
    ids = np.arange(10).reshape(2, 5) % 7
    p = profile()
    for _ in range(2):
        with p:
            optimizer.zero_grad()
            for _ in range(2):
                model.loss(ids, ids).backward()
            optimizer.step(optimizer.clip_grad_norm(1.0)[1])
    return p


def lasts(p: profile) -> float:
    """The mean step, by its ends alone."""
    return sum(step.end - step.start for step in p.steps) / len(p.steps)


def test_rows_add_up_to_the_step(profiled):
    *operations, rest = profiled.rows()
    assert rest.name == REST and rest.total > 0
    assert sum(row.total for row in (*operations, rest)) == pytest.approx(lasts(profiled), rel=1e-9)
    assert operations == sorted(operations, key=lambda row: -row.total)
    for row in (*operations, rest):
        assert min(row.seconds.values()) >= 0


def test_calls_and_limits_are_those_of_one_step(profiled):
    rows = {row.name: row for row in profiled.rows()}
    # per micro-batch two layers of two linear layers, an MLP and two norms, a last norm, and the loss
    calls = {"linear": 8, "mlp": 4, "layernorm": 10, "linear_cross_entropy": 2, "clip_grad_norm": 1, "AdamW": 1}
    assert {name: rows[name].calls for name in calls} == calls
    assert rows["clip_grad_norm"].limits["update"] == pytest.approx(4 * profiled_parameters() / 1e9)
    assert rows["AdamW"].limits["update"] == pytest.approx(7 * 4 * profiled_parameters() / 1e9)
    head = 10 * 8 + 7 * 8  # hidden states and weight
    least = max(2 * 10 * 8 * 7, 4 * (head + 1) + 8 * 10)
    assert rows["linear_cross_entropy"].limits["forward"] == pytest.approx(2 * least / 1e9)


def profiled_parameters() -> int:
    return GPT(GPTConfig(vocab_size=7, block_size=5, n_layer=2, n_head=2, n_embd=8)).numel()


def test_phases_follow_each_other_without_a_gap(profiled):
    for step in profiled.steps:
        phases = list(step.phases())
        assert [phase for phase, *_ in phases] == ["forward", "backward", "forward", "backward", "update"]
        ends = [step.start, *(end for _, _, end, _ in phases)]
        assert [start for _, start, _, _ in phases] == ends[:-1]
        assert ends[-1] == step.end


def test_the_table_shows_every_row_and_the_sum(profiled):
    heading, *lines = profiled.table().split("\n\n")[0].splitlines()
    assert heading.split()[:2] == ["calls", "forward"]
    assert len(lines) == len(profiled.rows()) + 1
    assert lines[-1].startswith("step ") and lines[-1].endswith("100.0 %")
    assert float(lines[-1].split()[-5]) == pytest.approx(1e3 * lasts(profiled), abs=1e-3)
    assert "2 steps" in profiled.table() and "1.0 GB/s" in profiled.table()


def test_the_trace_nests(profiled, tmp_path):
    profiled.save_trace(tmp_path / "trace.json")
    names = check_trace(tmp_path / "trace.json", steps=2)
    assert {name: names.count(name) for name in ("step 0", "step 1", "forward", "update", "linear", "AdamW")} == {
        "step 0": 1, "step 1": 1, "forward": 4, "update": 2, "linear": 2 * 2 * 8, "AdamW": 2,
    }  # fmt: skip


def check_trace(path: Path, steps: int) -> list[str]:
    """Complete events on one thread, each inside one of the level above: steps, phases, operations. Their names."""
    events = json.loads(path.read_text())["traceEvents"]
    assert all(event["ph"] == "X" and event["ts"] >= 0 and event["dur"] >= 0 for event in events)
    assert len({(event["pid"], event["tid"]) for event in events}) == 1
    levels = {"step": [], "phase": [], "operation": []}
    for event in events:
        start = round(1e3 * event["ts"])
        levels.get(event["cat"], levels["operation"]).append((start, start + round(1e3 * event["dur"])))
    assert len(levels["step"]) == steps
    for above, below in (("step", "phase"), ("phase", "operation")):
        for start, end in levels[below]:
            assert sum(first <= start and end <= last for first, last in levels[above]) == 1
    for level in levels.values():
        ordered = sorted(level)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ordered))
    return [event["name"] for event in events]


def test_operations_inside_another_count_once():
    class Outer(Function):
        @staticmethod
        def forward(ctx, x):
            return Tensor(x).exp().log().data

        @staticmethod
        def backward(ctx, dy):
            return dy

    x = Tensor(np.ones(3), requires_grad=True)
    with profile() as p:
        (Outer.apply(x * 2) * 2).sum().backward()
    assert [event.name for event in p.steps[0].outer][:4] == ["mul", "Outer", "mul", "sum"]
    assert sum(row.total for row in p.rows()) == pytest.approx(lasts(p), rel=1e-9)
    assert min(min(row.seconds.values()) for row in p.rows()) >= 0


def test_a_step_without_operations_is_all_rest(tmp_path):
    with profile() as p:
        pass
    assert [row.name for row in p.rows()] == [REST]
    assert p.rows()[0].total == pytest.approx(lasts(p))
    assert "step" in p.table()


def test_nothing_is_watched_after_the_block_nor_after_an_error():
    weight = Parameter(np.ones(3, np.float32))
    optimizer = AdamW([weight])
    p = profile()
    with pytest.raises(ZeroDivisionError), p:
        raise ZeroDivisionError
    (weight * 2).sum().backward()
    optimizer.step()
    assert p.steps[0].events == []


def test_train_with_a_profile_gives_the_same_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYGRAD_LLM_CACHE", str(tmp_path / "cache"))
    Path("milk.txt").write_text("".join(f"{i} bottles of milk on the wall;\n" for i in range(60)))
    small = """train --data milk.txt --preset tiny --model.n_layer 1 --model.n_embd 16 --model.block_size 8
        --model.dropout 0.1 --batch_size 2 --gradient_accumulation_steps 2 --max_iters 9 --eval_interval 4
        --eval_iters 2 --sample_length 8 --kernels numpy""".split()
    assert main([*small, "--out", "plain"]) == main([*small, "--out", "run", "--profile", "4"]) == 0
    out = capsys.readouterr().out
    table = Path("run/profile.txt").read_text()
    assert table in out and "4 steps of" in table and "AdamW" in table
    check_trace(Path("run/profile.json"), steps=4)
    weights = [Path(run, "checkpoints/step-000009/model.safetensors").read_bytes() for run in ("plain", "run")]
    assert weights[0] == weights[1]
    assert "profile" not in Path("run/config.yaml").read_text() and not Path("plain/profile.txt").exists()


def test_too_few_steps_to_profile_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYGRAD_LLM_CACHE", str(tmp_path / "cache"))
    Path("milk.txt").write_text("".join(f"{i} bottles of milk on the wall;\n" for i in range(60)))
    few = ["train", "--data", "milk.txt", "--preset", "tiny", "--max_iters", "9", "--profile"]
    assert main(few) == 2
    assert "10 steps to profile after 3 to warm up are more than the 9 left" in capsys.readouterr().err
    assert main([*few, "-1"]) == 2
    assert not Path("runs").exists()
