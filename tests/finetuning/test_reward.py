"""Reward models, which PPO takes for a reward; and rewards by programs."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from tinygrad_llm import UserError, cli, manual_seed
from tinygrad_llm.finetuning.classify import load_run
from tinygrad_llm.finetuning.ppo import PPO, PPOConfig
from tinygrad_llm.finetuning.prompts import Dialogue
from tinygrad_llm.finetuning.reward import Reward, RewardConfig
from tinygrad_llm.finetuning.rewards import load_reward
from tinygrad_llm.formats.classifier import save_classifier
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.tokenizers import ByteTokenizer, CharTokenizer
from tinygrad_llm.training.metrics import read_metrics

SHAPE = {"vocab_size": 256, "block_size": 24, "n_layer": 1, "n_head": 2, "n_embd": 16}


@pytest.fixture
def data(tmp_path):
    """64 pairs: answers that end politely are preferred."""
    pairs = [
        {"prompt": f"{a}{b}?", "chosen": f"{a}, sir", "rejected": f"{b}, no"} for a in "abcdefgh" for b in "ijklmnop"
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return tmp_path / "pairs.jsonl"


@pytest.fixture
def make(tmp_path, base, data):
    def tuner(run="run", **changes):
        settings = {"model": str(base), "data": str(data), "style": "plain", "learning_rate": 1e-2, "warmup_iters": 2}
        shares = {"train_fraction": 0.7, "val_fraction": 0.15, "max_iters": 12, "eval_interval": 6}
        return Reward(RewardConfig(**settings | shares | changes), tmp_path / run)

    return tuner


def dialogue(question, answer):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Dialogue("here", turns, question)


@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=2)])
def test_it_learns_which_answers_are_preferred_and_rewards_them(tmp_path, make, lora):
    tuner = make(lora=lora)
    tuner.train()
    report = tuner.finish()
    first, *_, last = [line for line in read_metrics(tmp_path / "run") if line["split"] == "val"]
    assert last["loss"] < min(first["loss"], 0.4) and last["accuracy"] == 1
    assert json.loads((tmp_path / "run/report.json").read_text()) == report.values
    assert report.values["test"]["accuracy"] == 1 and report.values["test"]["margin"] > 0.8
    assert (tmp_path / "run/report.html").read_text().count("<svg") == 2
    model, _ = load_run(tmp_path / "run")
    assert model.labels == ["reward"]
    reward = load_reward(str(tmp_path / "run"), "plain")
    good, bad = reward([dialogue("zz?", "z, sir"), dialogue("zz?", "z, no")])
    assert good > bad + 0.8


def test_the_loss_and_the_gradient_of_the_head_are_torchs(make):
    tuner = make(dtype="float64")
    batch = next(tuner.batches)
    pooled = tuner.model.pool(batch.ids, batch.lengths).data
    weight = torch.tensor(tuner.model.score.weight.data, requires_grad=True)
    rewards = torch.tensor(pooled) @ weight[0]
    half = tuner.weight(batch)
    assert len(rewards) == 2 * half == 16
    expected = -torch.nn.functional.logsigmoid(rewards[:half] - rewards[half:]).sum()
    expected.backward()
    loss = tuner.loss(batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(tuner.model.score.weight.grad, weight.grad.numpy(), rtol=1e-9, atol=1e-15)


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, make, interrupted):
    whole = make("whole", max_iters=4)
    whole.train()
    parts = make("parts", max_iters=4)
    interrupted(parts, 1)
    make("parts", max_iters=4).train()
    last = "checkpoints/step-000004"
    for file in (tmp_path / "whole" / last).iterdir():
        assert (tmp_path / "parts" / last / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_learned_reward_leads_ppo(tmp_path, make):
    """Answers with more of one letter are preferred; PPO finds that letter, and not the reward's program."""
    letters, draw = "abcdefghij", np.random.default_rng(0)
    manual_seed(1)
    save_pretrained(GPT(GPTConfig(**SHAPE | {"vocab_size": 10})), tmp_path / "chars", CharTokenizer.train(letters))
    pairs = []
    for _ in range(120):
        answers = sorted(("".join(draw.choice([*letters, *"eee"], 6)) for _ in range(2)), key=lambda x: x.count("e"))
        pairs.append({"prompt": "ab", "chosen": answers[1], "rejected": answers[0]})
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    make(model=str(tmp_path / "chars"), data=str(tmp_path / "e.jsonl"), pooling="mean", max_iters=24).train()
    (tmp_path / "prompts.txt").write_text("".join(f"{a}{b}\n" for a in letters for b in letters))
    settings = {"model": str(tmp_path / "chars"), "data": str(tmp_path / "prompts.txt"), "style": "plain"}
    settings |= {"reward": str(tmp_path / "run"), "learning_rate": 1e-2, "warmup_iters": 0, "schedule": "constant"}
    ppo = PPO(PPOConfig(**settings, max_new_tokens=6, max_iters=10, eval_interval=10), tmp_path / "ppo")
    ppo.train()
    first, last = [line for line in read_metrics(tmp_path / "ppo") if line["split"] == "val"]
    assert last["reward"] > first["reward"] + 0.5
    answers = ppo.play(ppo.model.policy, ppo.examples["test"], seed=0).texts
    assert "".join(answers).count("e") > 0.4 * 6 * len(answers)


def test_rewards_by_programs(tmp_path, monkeypatch):
    (tmp_path / "good.txt").write_text("fine\nGREAT\n")
    (tmp_path / "own_reward.py").write_text("def short(prompt, answer):\n    return -len(answer)\n")
    monkeypatch.chdir(tmp_path)
    expected = {
        "letter:e": ("x", "eel!", 0.5),
        "words:good.txt": ("x", "Fine, a great day.", 0.5),
        "sum": ("12+34=", "46.", 1.0),
        "own_reward:short": ("x", "abc", -3.0),
    }
    for source, (prompt, answer, value) in expected.items():
        assert load_reward(source, "plain")([dialogue(prompt, answer)]) == [value]
    assert list(load_reward("sum", "plain")([dialogue("1 + 2 =", text) for text in ("4", "is 3", "")])) == [0, 1, 0]
    assert list(load_reward("letter:e", "plain")([dialogue("x", "")])) == [0]


BAD_REWARDS = {
    "nothing": "there is no reward 'nothing': give letter:e",
    "letter:ee": "there is no reward 'letter:ee'",
    "words:none.txt": "cannot read none.txt",
    "words:empty.txt": "empty.txt: there are no words in it",
    "no_such_module:f": "cannot import the reward no_such_module:f: No module named",
    "bad_reward:missing": "cannot import the reward bad_reward:missing",
}


@pytest.mark.parametrize("source", BAD_REWARDS)
def test_rewards_that_cannot_be_had_are_one_line(tmp_path, monkeypatch, source):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bad_reward.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(BAD_REWARDS[source])) as caught:
        load_reward(source, "plain")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"), [("1 / 0", "ZeroDivisionError"), ("float('nan')", "is nan for"), ("'?'", "ValueError")]
)
def test_a_reward_that_fails_is_one_line(tmp_path, monkeypatch, body, message):
    (tmp_path / "failing.py").write_text(f"def reward(prompt, answer):\n    return {body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    with pytest.raises(UserError, match=f"the reward failing:reward .*{message}"):
        load_reward("failing:reward", "plain")([dialogue("x", "y")])


def test_a_classifier_is_no_reward_model(tmp_path, make):
    tuner = make()
    tuner.labels = ["good", "bad"]
    model = tuner.make(tuner.load_base())
    save_classifier(model, tmp_path / "classes", ByteTokenizer())
    with pytest.raises(UserError, match="classes is no reward model but one of 2 classes"):
        load_reward(str(tmp_path / "classes"), "plain")


def test_the_command_line(tmp_path, base, data, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"model": base, "data": data, "style": "plain", "max_iters": 1, "out": "runs/reward"}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert cli.main(["finetune", "reward", *flags]) == 0
    out = capsys.readouterr().out
    assert "54 train, 3 val, 7 test pairs, as plain" in out and "test pairs" in out
    assert (tmp_path / "runs/reward/report.html").is_file()
    data.write_text(data.read_text() + '{"prompt": "x", "chosen": "y"}')
    assert cli.main(["finetune", "reward", *flags[:-2]]) == 2
    assert "pairs.jsonl, line 65: there is no field 'rejected'" in capsys.readouterr().err
