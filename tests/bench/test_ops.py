"""The race of the operations: which there are, what they are given, and the limit beside them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_llm import UserError, roofline
from tinygrad_llm.bench import lora, ops, step_char

SMALL = replace(step_char.Race.config, n_layer=3, n_head=2, n_embd=16, vocab_size=11)
LLAMA = replace(lora.Race.config, n_head=4, n_kv_head=2, head_dim=16, n_embd=64, intermediate_size=96, vocab_size=11)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small models, and a machine on which a millisecond is 10^6 operations or bytes."""
    gpt, llama = (type("Race", (step_char.Race,), {"config": config, "shape": (2, 7)}) for config in (SMALL, LLAMA))
    monkeypatch.setattr(ops, "find", lambda name: llama if name == "lora" else gpt)
    monkeypatch.setattr(roofline, "machine", lambda: roofline.Machine(2, 1e9, 1e9))
    ops.calls.cache_clear()
    yield
    ops.calls.cache_clear()


def test_each_side_beside_the_limit_and_backward_where_a_gradient_is_wanted():
    models, operations = "char,smollm2-q4_1,smollm2-lora", "layernorm,clip_adamw,quantized_linear,lora_linear"
    cases = ops.Race(models=models, operations=operations, rounds=2, steps=2).run()["cases"]
    rows, width, parameters = 2 * 7, 16, 64 * 16 + 11 * 16 + 3 * (12 * 16 * 16 + 2 * 16) + 16
    norm, update = "char layernorm 2x7x16 16", f"char clip_adamw {parameters}"
    assert list(cases)[:3] == [f"{norm} forward", f"{norm} backward", f"{update} update"]
    phases = {(case.split()[1], case.split()[-1]) for case in list(cases)[3:]}
    both = {("lora_linear", "forward"), ("lora_linear", "backward")}
    assert phases == both | {("quantized_linear", "forward"), ("clip_adamw", "update")}
    limits = [4 * (2 * rows * width + width), 4 * (3 * rows * width + 2 * width), 4 * 8 * parameters]
    for case, limit in zip(cases.values(), limits, strict=False):
        assert case["sides"]["limit"]["median"] == pytest.approx(limit / 1e6)
    for case in cases.values():
        assert list(case["sides"]) == ["ours", "numpy", "eager", "limit"]
        assert case["theirs"]["side"] == "eager"
        assert all(side["median"] > 0 for side in case["sides"].values())


def test_a_step_calls_what_the_model_does():
    cases = ops.Race(models="char,baby").cases()
    assert len({label.split()[0] for label in cases}) == 2 and json.loads(json.dumps(cases)).keys() == cases.keys()
    names = {case["name"] for case in cases.values()}
    assert {"embedding", "layernorm", "linear_cross_entropy", "clip_adamw"} <= names
    assert names.isdisjoint({"getitem", "permute"})  # views
    with pytest.raises(UserError, match="no step calls tanh: choose from"):
        ops.Race(operations="layernorm,tanh").cases()


def test_what_a_llama_calls_and_what_of_it_wants_a_gradient():
    def needs(model: str) -> dict[str, list[bool]]:
        return {case["name"]: case["needs"] for case in ops.calls(model).values() if case["name"] != "clip_adamw"}

    whole, lora, quantized = (needs(f"smollm2{kind}") for kind in ("", "-lora", "-q4_1"))
    assert whole["rotary"][:3] == [True, False, False]  # the angles are given
    assert {"rmsnorm", "swiglu", "attention"} <= whole.keys() and whole["linear"] == [True, True, False]
    assert lora["lora_linear"][:5] == [True, False, False, True, True]
    assert lora["linear_cross_entropy"][:2] == [True, False] and lora["embedding"][0] is False
    assert not any(map(any, quantized.values()))
    assert "quantized_linear 1x1x64 96x40" in ops.calls("smollm2-q4_1-token")


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
