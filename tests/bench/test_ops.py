"""The race of the operations: which there are, what they are given, and the limit beside them."""

from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm import UserError, roofline
from tinygrad_llm.bench import ops, step_char

SMALL = replace(step_char.Race.config, n_layer=3, n_head=2, n_embd=16, vocab_size=11)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A small model, and a machine on which a millisecond is 10^6 operations or bytes."""
    contest = type("Race", (step_char.Race,), {"config": SMALL, "shape": (2, 7)})
    monkeypatch.setattr(ops, "find", lambda name: contest)
    monkeypatch.setattr(roofline, "machine", lambda: roofline.Machine(2, 1e9, 1e9))
    ops.calls.cache_clear()
    yield
    ops.calls.cache_clear()


def test_each_side_beside_the_limit():
    result = ops.Race(models="char", operations="layernorm,clip_adamw", rounds=2, steps=2).run()
    rows, width, parameters = 2 * 7, 16, 64 * 16 + 11 * 16 + 3 * (12 * 16 * 16 + 2 * 16) + 16
    norm, update = "char layernorm 2x7x16 16", f"char clip_adamw {parameters}"
    assert list(result["cases"]) == [f"{norm} forward", f"{norm} backward", f"{update} update"]
    limits = [4 * (2 * rows * width + width), 4 * (3 * rows * width + 2 * width), 4 * 8 * parameters]
    for case, limit in zip(result["cases"].values(), limits, strict=True):
        assert list(case["sides"]) == ["ours", "numpy", "eager", "limit"]
        assert case["theirs"]["side"] == "eager"
        assert case["sides"]["limit"]["median"] == pytest.approx(limit / 1e6)
        assert all(side["median"] > 0 for side in case["sides"].values())


def test_a_step_calls_what_the_model_does():
    cases = ops.Race(models="char,baby").cases()
    assert len({label.split()[0] for label in cases}) == 2
    names = {case["name"] for case in cases.values()}
    assert {"embedding", "layernorm", "linear_cross_entropy", "clip_adamw"} <= names
    assert names.isdisjoint({"getitem", "permute"})  # views
    with pytest.raises(UserError, match="no step calls tanh: choose from"):
        ops.Race(operations="layernorm,tanh").cases()


def test_inputs_are_made_as_they_looked():
    ids = np.array([[3, 0], [1, 1]])
    made = ops.make(ops.describe(ids))
    assert (made.shape, made.dtype, made.min() >= 0, made.max() <= 3) == (ids.shape, ids.dtype, True, True)
    x = ops.make(ops.describe(np.ones((3, 5), np.float32)))
    assert (x.shape, x.dtype) == ((3, 5), np.float32)
    assert [ops.make(ops.describe(value)) for value in (None, 0.5, "tanh", True)] == [None, 0.5, "tanh", True]


def test_numpy_is_left_out_where_it_takes_too_long(monkeypatch):
    asked = []

    class Worker:
        def __init__(self, side, **_):
            self.side = side

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def turn(self, case):
            asked.append(self.side)
            seconds = {"forward": [3.0 if self.side == "numpy" else 0.1]}
            return {"seconds": seconds, "work": {"forward": (0, 0)}}

    monkeypatch.setattr(ops.race, "Worker", Worker)
    result = ops.Race(models="char", operations="layernorm", rounds=2).run()
    (case,) = result["cases"].values()
    assert list(case["sides"]) == ["ours", "eager"]  # without a limit, where there is nothing to do
    assert asked.count("numpy") == 1
    assert result["skipped"] == {"numpy": "a call takes more than 1 s: char layernorm 2x7x16 16"}
