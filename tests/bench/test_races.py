"""The races run, do the same work on all sides, and report what they should; how fast is not for a test to say."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tinygrad_llm import UserError
from tinygrad_llm.bench import find, race
from tinygrad_llm.bench.step import FreshStep, loss_difference


def check(result: dict, *sides: str) -> None:
    """The result names every side, and all of them had the same losses."""
    assert tuple(result["sides"]) == sides
    assert result["ours"] == result["sides"][sides[0]]
    assert result["theirs"]["side"] in ("eager", "compile")
    assert result["loss_difference"] < 1e-5
    for side in result["sides"].values():
        assert 0 < side["quartiles"][0] <= side["median"] <= side["quartiles"][1]
        assert side["peak_mb"] > 20
    assert result["ratio"] == result["theirs"]["ratio"] > 0


SMALLER = {"step-124m": {"n_layer": 2, "n_head": 3, "n_embd": 48, "vocab_size": 1000}}


def smaller(name: str) -> type:
    """The race with a smaller model."""
    contest = find(name)
    config = replace(contest.config, **SMALLER.get(name, {"n_layer": 1}))
    return type("Smaller", (contest,), {"config": config, "__module__": contest.__module__})


@pytest.mark.slow  # PyTorch compiles; beside eager alone the README's command runs it
def test_step_char_beside_eager_and_compiled_steps():
    result = smaller("step-char")(rounds=2, steps=3).run()
    assert result["race"] == "step-char"
    assert (result["rounds"], result["steps"]) == (2, 3)
    check(result, "ours", "eager", "compile")


@pytest.mark.parametrize(
    "name", ["step-124m", *(pytest.param(name, marks=pytest.mark.slow) for name in ("step-baby", "step-long"))]
)
def test_a_step_of_the_larger_models(name):
    result = smaller(name)(sides="ours,eager", rounds=1, steps=1).run()
    assert result["race"] == name
    check(result, "ours", "eager")


def test_the_models_are_the_issues():
    """And the batches: so many sequences of so many tokens."""
    fields = ("n_layer", "n_head", "n_embd", "vocab_size", "bias", "dropout")
    models = {name: find(name) for name in ("step-char", "step-baby", "step-long", "step-124m")}
    assert {name: (*(getattr(model.config, f) for f in fields), *model.shape) for name, model in models.items()} == {
        "step-char": (4, 4, 128, 65, False, 0.0, 12, 64),
        "step-baby": (6, 6, 384, 65, False, 0.0, 8, 256),
        "step-long": (6, 6, 384, 65, False, 0.0, 2, 1024),
        "step-124m": (12, 12, 768, 50257, True, 0.0, 4, 256),
    }


def test_start_counts_from_the_first_import():
    result = find("start")(sides="ours,import", rounds=1).run()
    assert result["sides"].keys() == {"ours", "import"}
    assert result["sides"]["import"]["median"] < result["ours"]["median"]


@pytest.mark.slow
def test_start_with_cold_caches_compiles():
    result = find("start")(sides="ours,ours-cold,compile,compile-cold", rounds=1).run()
    check(result, "ours", "ours-cold", "compile", "compile-cold")
    assert result["sides"]["ours"]["ratio"] == 1 > 2 * result["sides"]["ours-cold"]["ratio"]


def test_a_cold_turn_has_empty_caches_of_its_own(monkeypatch, tmp_path):
    seen = []

    class Worker:
        def __init__(self, side, folder, threads, environment):
            seen.append(environment)

        def __enter__(self):
            assert all(os.listdir(folder) == [] for folder in seen[-1].values())
            return self

        def __exit__(self, *exception):
            pass

        def turn(self, steps):
            return {}

    monkeypatch.setattr(race, "Worker", Worker)
    turn = FreshStep().turns([], tmp_path, 1, None)
    for side in ("ours", "ours-cold", "ours-cold"):
        turn(side, 1)
    assert seen[0] == {}
    assert seen[1].keys() == {"NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"}
    assert seen[1] != seen[2]


def test_time_to_loss_stops_all_sides_at_the_same_step(data_dir):
    result = smaller("time-to-loss")(sides="ours,eager", steps=9, target=4.15, eval_interval=3).run()
    check(result, "ours", "eager")
    ours, eager = (result["reached"][side] for side in ("ours", "eager"))
    assert ours["step"] == eager["step"] < 9
    assert ours["loss"] == pytest.approx(eager["loss"], abs=1e-5)
    assert ours["loss"] <= 4.15


def test_time_to_a_loss_that_is_out_of_reach(data_dir):
    answers = [{"ours": {"losses": [4.1, 4.0], "evaluations": [4.05]}}]
    with pytest.raises(UserError, match=r"ours did not reach the loss 1.89 in 2 steps: it is 4.05"):
        find("time-to-loss")().details(answers)


def test_pytorch_pays_for_nothing_of_ours(tmp_path):
    """Neither in its start nor in its memory: its worker does not import this library."""
    smaller("step-124m")().prepare(tmp_path)
    script = tmp_path / "spy.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(race.WORKER.parent)!r}); from pathlib import Path; import worker\n"
        "turn = worker.training(sys.argv[1], Path(sys.argv[2]))\n"
        "worker.serve(lambda steps: turn(steps) | {'ours': 'tinygrad_llm' in sys.modules})"
    )
    with race.Worker("eager", tmp_path, 1, script=script) as worker:
        assert worker.turn(1)["ours"] is False


def test_losses_that_differ_are_no_race():
    def difference(loss: float) -> tuple[int, float]:
        """The first round's losses agree, and the sides go on from there."""
        rounds = [
            {"ours": [4.0], "import": [], "eager": [4.0]},
            {"ours": [3.0, 2.0], "import": [], "eager": [loss, 2.0]},
        ]
        return loss_difference([{side: {"losses": numbers} for side, numbers in r.items()} for r in rounds])

    assert difference(3.0001) == (3, pytest.approx(1e-4))
    for wrong in (3.1, float("nan")):
        with pytest.raises(UserError, match="ours and eager do not do the same work"):
            difference(wrong)


def test_the_curve_starts_where_nanogpt_does(data_dir):
    """4.1649: what nanoGPT's code gives for the mean of its first 20 validation batches with its seed."""
    command = [sys.executable, str(race.WORKER.with_name("nanogpt_curve.py")), "--max_iters", "2"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split() for line in output.splitlines()[1:]] == [["0", "4.1649", "4.1649"]]
