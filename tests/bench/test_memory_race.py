"""What the tape holds is counted once, and theory is what its table says."""

from dataclasses import replace

import numpy as np

from tinygrad_llm import Tensor, activations
from tinygrad_llm.autograd import Function, record
from tinygrad_llm.bench import memory, step_char

CONTEST = type(
    "Race",
    (step_char.Race,),
    {"config": replace(step_char.Race.config, n_layer=2, n_head=2, n_embd=16), "shape": (2, 7)},
)


def test_arrays_are_found_wherever_they_are_held_and_counted_once():
    class Keep(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(context)
            return x + 1

        @staticmethod
        def backward(ctx, dy):
            return dy

    in_closure, in_tuple, viewed, context, unseen = (np.ones(10) for _ in range(5))
    saved = [(in_tuple, viewed[2:4]), viewed[None], None, 3]
    x = Tensor(np.ones(10), requires_grad=True)

    def inner(dy):
        return dy * in_closure

    y = record("held", (Keep.apply(x),), unseen, lambda dy: (inner(dy), saved))
    found = {id(array) for array in activations.arrays(y.node)}
    assert found == {id(array) for array in (in_closure, in_tuple, viewed, context, x.data)}


def test_a_layer_keeps_what_theory_says():
    tokens, width, heads = 2 * 7, 16, 2
    assert memory.a_layer(memory.theory, CONTEST) == 4 * tokens * (10 * width + 4 + heads)
    least = 4 * tokens * 10 * width
    for measure in (memory.ours, memory.eager):
        assert least < memory.a_layer(measure, CONTEST) < 3 * least


def test_peaks_and_what_a_layer_keeps(monkeypatch):
    monkeypatch.setattr(memory, "find", lambda name: CONTEST)
    result = memory.Race(sides="ours,eager", models="char", rounds=1, steps=1).run()
    peak, kept = result["cases"].values()
    assert list(result["cases"]) == ["char peak", "char kept by a layer"]
    assert list(peak["sides"]) == ["ours", "eager"] and list(kept["sides"]) == ["ours", "eager", "theory"]
    assert peak["unit"] == kept["unit"] == "MB"
    assert all(side["median"] > 20 for side in peak["sides"].values())
    assert kept["sides"]["theory"]["median"] == memory.a_layer(memory.theory, CONTEST) / 2**20
