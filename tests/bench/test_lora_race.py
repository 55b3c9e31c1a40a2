"""The race of LoRA fine-tuning runs on a small model, and both sides do the same work."""

from dataclasses import replace

import pytest

from tinygrad_llm.bench import find

pytest.importorskip("peft")


def test_a_step_beside_peft():
    contest = find("lora")
    config = replace(contest.config, n_layer=2, n_embd=72, n_head=9, intermediate_size=96, vocab_size=1000, head_dim=8)
    race = type("Smaller", (contest,), {"config": config, "shape": (2, 16), "__module__": contest.__module__})
    result = race(rounds=1, steps=2).run()
    assert result["race"] == "lora" and tuple(result["sides"]) == ("ours", "eager")
    assert result["loss_difference"] < 1e-5
    for side, speed in result["tokens_per_second"].items():
        assert speed > 0 and result["sides"][side]["peak_mb"] > 20


def test_the_model_is_smollm2():
    contest = find("lora")
    assert (contest.config.n_layer, contest.config.n_embd, contest.config.vocab_size) == (30, 576, 49152)
