"""The race of LoRA fine-tuning runs on a small model, and both sides do the same work."""

import sys
from dataclasses import replace

import pytest

from tinygrad_llm.bench import find, lora
from tinygrad_llm.bench.step import loss_difference

pytest.importorskip("peft")


@pytest.fixture
def contest():
    """The race with a small model."""
    config = replace(
        lora.Race.config, n_layer=2, n_embd=72, n_head=9, intermediate_size=96, vocab_size=1000, head_dim=8
    )
    return type("Smaller", (find("lora"),), {"config": config, "shape": (2, 16), "__module__": lora.__name__})


def test_both_sides_have_the_same_losses(contest, tmp_path, monkeypatch):
    """In this process, which may have PEFT already."""
    monkeypatch.syspath_prepend(lora.WORKER.parent)
    monkeypatch.delitem(sys.modules, "worker", raising=False)
    import lora_worker

    contest().prepare(tmp_path)
    answers = {side: lora_worker.training(side, tmp_path)(2) for side in ("ours", "eager")}
    compared, difference = loss_difference([answers])
    assert compared == 2
    assert difference < 1e-5


@pytest.mark.slow
def test_a_step_beside_peft(contest):
    result = contest(rounds=1, steps=2).run()
    assert result["race"] == "lora" and tuple(result["sides"]) == ("ours", "eager")
    assert result["loss_difference"] < 1e-5
    for side, speed in result["tokens_per_second"].items():
        assert speed > 0 and result["sides"][side]["peak_mb"] > 20


def test_the_model_is_smollm2():
    config = find("lora").config
    assert (config.n_layer, config.n_embd, config.vocab_size) == (30, 576, 49152)
