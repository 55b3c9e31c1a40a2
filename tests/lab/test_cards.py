"""The roofline of a card: the work of a call over published figures, by hand."""

import pytest

from tinygrad_llm import UserError, lab
from tinygrad_llm.bench import ops
from tinygrad_llm.lab.cards import card, works
from tinygrad_llm.roofline import Work

CARD = lab.Card("one", "sm_90", bandwidth=10.0, float32=100.0, tensor=1000.0)


def look(*shape: int) -> dict:
    return {"shape": shape, "dtype": "float32", "high": 0}


def case(name: str, inputs: list, output, **more) -> dict:
    return {"name": name, "inputs": inputs, "output": output, "needs": [True] * len(inputs)} | more


def test_the_time_is_the_longer_of_bytes_and_products():
    assert CARD.times(Work(flops=0, bytes=400)) == (40, 20)
    assert CARD.times(Work(flops=10_000, bytes=400)) == (100, 20)


def test_the_work_of_a_call_is_counted_from_its_shapes():
    norm = case("layernorm", [look(7, 33), look(33), None], look(7, 33), needs=[True, True, False])
    forward, backward = 4 * (2 * 7 * 33 + 33), 4 * (3 * 7 * 33 + 2 * 33)
    assert works(norm) == [("forward", (0, forward)), ("backward", (0, backward))]
    linear = case("linear", [look(2, 3), look(5, 3)], look(2, 5))
    assert [work.flops for _, work in works(linear)] == [2 * 2 * 3 * 5, 2 * 2 * 2 * 3 * 5]
    passed_on = case("add", [look(7, 3), look(7, 3)], look(7, 3))
    assert works(passed_on) == [("forward", (0, 3 * 84)), ("backward", (0, 0))]
    assert works(passed_on | {"needs": [False, False]}) == [("forward", (0, 3 * 84))]
    update = case(ops.UPDATE, [look(4, 5), look(20)], None)
    assert works(update) == [("update", (0, 8 * 4 * 40))]


def test_a_roofline_has_every_call_on_every_card(monkeypatch):
    cases = {"tiny layernorm": case("layernorm", [look(7, 33), look(33), look(33)], look(7, 33))}
    monkeypatch.setattr(ops, "cases_of", lambda operation, models: cases)
    estimates = lab.roofline("layernorm", ["h100", "T4"])
    assert [(e.phase, e.card) for e in estimates] == [
        ("forward", "H100 SXM"), ("forward", "T4"), ("backward", "H100 SXM"), ("backward", "T4"),
    ]  # fmt: skip
    assert estimates[1].float32_seconds == pytest.approx(estimates[1].bytes / 320e9)
    assert estimates[0].tensor_seconds == pytest.approx(estimates[0].bytes / 2 / 3.35e12)


def test_cards_are_found_by_their_names():
    assert card("RTX 4090") is card("rtx-4090") is lab.CARDS["rtx4090"]
    with pytest.raises(UserError, match="no figures for the card 'H200': choose from t4, a100"):
        card("H200")
    assert all(c.bandwidth < c.float32 < c.tensor for c in lab.CARDS.values())
