"""PPO and GRPO: gradients beside PyTorch's, what a token learns, rewards that rise, resuming, what a run leaves."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import transformers

from tinygrad_llm import UserError, cli, manual_seed, random
from tinygrad_llm.finetuning.grpo import GRPO, GRPOConfig
from tinygrad_llm.finetuning.objectives import IGNORE
from tinygrad_llm.finetuning.policy import adapted
from tinygrad_llm.finetuning.ppo import PPO, PPOConfig
from tinygrad_llm.finetuning.rollouts import arrays, sample
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.huggingface import save_pretrained, to_huggingface
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.tokenizers import ByteTokenizer, CharTokenizer
from tinygrad_llm.training import checkpoint
from tinygrad_llm.training.metrics import read_metrics

LETTERS = "abcdefghij"
SHAPE = {"vocab_size": 10, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}
TASKS = {"ppo": (PPO, PPOConfig), "grpo": (GRPO, GRPOConfig)}


@pytest.fixture
def base(tmp_path):
    """A GPT that has learned nothing: each of ten letters is about as likely."""
    manual_seed(1)
    save_pretrained(GPT(GPTConfig(**SHAPE)), tmp_path / "base", CharTokenizer.train(LETTERS))
    return tmp_path / "base"


@pytest.fixture
def data(tmp_path):
    """40 prompts, one a line."""
    (tmp_path / "prompts.txt").write_text("".join(f"{a}{b}\n" for a in LETTERS for b in "abcd"))
    return tmp_path / "prompts.txt"


@pytest.fixture
def make(tmp_path, base, data):
    def tuner(task="ppo", run="run", **changes):
        kind, config_class = TASKS[task]
        settings = {"model": str(base), "data": str(data), "style": "plain", "reward": "letter:e", "max_new_tokens": 8}
        settings |= {"learning_rate": 1e-2, "warmup_iters": 0, "schedule": "constant", "max_iters": 6}
        settings |= {"eval_interval": 3, "batch_size": 32 if task == "ppo" else 4, "answers": 2}
        return kind(config_class(**settings | changes), tmp_path / run)

    return tuner


def torch_model(tmp_path, seed=0):
    """transformers' GPT-2 for bytes, in float64."""
    shape = {"vocab_size": 256, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, initializer_range=0.2)).double().eval()
    model.save_pretrained(tmp_path / "hf")
    ByteTokenizer().save(tmp_path / "hf")
    return model


@pytest.mark.parametrize("task", TASKS)
def test_every_gradient_is_torchs(tmp_path, make, task):
    """Of a policy, on a transformers model, that has moved away from the one that drew the answers."""
    oracle = torch_model(tmp_path)
    tuner = make(task, model=str(tmp_path / "hf"), dtype="float64", clip=0.1, kl_coefficient=0.3)
    played = tuner.play(tuner.trunk(tuner.model), tuner.asked(next(tuner.batches)))
    draw = np.random.default_rng(0)
    rollout = tuner.learn(played.rollout, played.rewards)
    rollout = rollout._replace(reference=rollout.reference + 0.3 * draw.normal(size=rollout.mask.shape))
    if task == "ppo":
        rollout = rollout._replace(values=rollout.values + 0.3 * draw.normal(size=rollout.mask.shape))
    for _, parameter in tuner.model.named_parameters():
        parameter.data = parameter.data + 0.02 * draw.normal(size=parameter.shape)
    policy = tuner.trunk(tuner.model)
    oracle.load_state_dict({k: torch.tensor(x) for k, x in to_huggingface(policy).items()}, strict=False)
    mask, labels = torch.tensor(rollout.mask), torch.tensor(rollout.labels)
    old, reference, advantages = map(torch.tensor, (rollout.log_p, rollout.reference, rollout.advantages))
    h = oracle.transformer(torch.tensor(rollout.ids)).last_hidden_state
    log_p = oracle.lm_head(h).log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    ratio = ((log_p - old) * mask).exp()
    each = -torch.minimum(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages)
    if task == "ppo":
        head = [torch.tensor(p.data, requires_grad=True) for p in (tuner.model.value.weight, tuner.model.value.bias)]
        values, before, returns = h @ head[0][0] + head[1], *map(torch.tensor, (rollout.values, rollout.returns))
        near = before + (values - before).clamp(-0.1, 0.1)
        each = each + 0.1 * 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    else:
        d = (reference - log_p) * mask
        each = each + 0.3 * (d.exp() - d - 1)
    expected = (each * mask).sum()
    expected.backward()
    tuner.clipped = []
    found = tuner.loss(rollout)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    moved = ((ratio - 1).abs() > 0.1).double()
    assert 0.05 < tuner.clipped[0] < 0.95  # both cases are there
    assert tuner.clipped[0] == pytest.approx(((moved * mask).sum() / mask.sum()).item())
    theirs = {name: parameter.grad.numpy() for name, parameter in oracle.named_parameters()}
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    if task == "ppo":
        for ours, parameter in zip((tuner.model.value.weight, tuner.model.value.bias), head, strict=True):
            np.testing.assert_allclose(ours.grad, parameter.grad.numpy(), rtol=1e-9)
    for _, parameter in policy.named_parameters():
        parameter.data = parameter.grad
    ours = to_huggingface(policy)
    assert set(theirs) <= set(ours)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-9, atol=1e-9 * largest, err_msg=name)


def test_a_token_returns_the_answers_reward_less_what_the_divergence_costs_from_there_on(make):
    tuner = make(kl_coefficient=0.5, lam=1.0, dtype="float64")
    played = tuner.play(tuner.model.policy, tuner.examples["train"][:5])
    apart = np.random.default_rng(0).normal(size=played.rollout.log_p.shape)
    rollout = tuner.learn(played.rollout._replace(reference=played.rollout.log_p - apart), played.rewards)
    assert np.array_equal(played.rewards, [text.count("e") / len(text) for text in played.texts])
    for row in range(5):
        answer = np.flatnonzero(rollout.mask[row])
        for t in answer:
            expected = played.rewards[row] - 0.5 * apart[row, answer[answer >= t]].sum()
            assert rollout.returns[row, t] == pytest.approx(expected, abs=1e-12)
    assert not rollout.returns[rollout.mask == 0].any()
    inside = rollout.advantages[rollout.mask == 1]
    assert inside.mean() == pytest.approx(0, abs=1e-12) and inside.std() == pytest.approx(1, abs=1e-6)


def test_in_a_group_better_answers_gain_what_worse_ones_lose(make):
    tuner = make("grpo", dtype="float64")
    played = tuner.play(tuner.model, tuner.asked(next(tuner.batches)))
    rollout = tuner.learn(played.rollout, played.rewards)
    groups = rollout.advantages.max(1, initial=-9, where=rollout.mask == 1).reshape(4, 8)
    np.testing.assert_allclose(groups.sum(1), 0, atol=1e-12)
    order = np.argsort(played.rewards.reshape(4, 8), axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(groups, order, 1)) >= -1e-12).all()


def test_answers_end_with_the_token_that_ends_them(base):
    model = load_model(base)
    prompts = [[0, 1], [2], [3, 4, 5]]
    answers = sample(model, prompts, 9, eos_ids={7, 8}, seed=3)
    assert answers == sample(model, prompts, 9, eos_ids={7, 8}, seed=3)
    for answer in answers:
        assert len(answer) == 9 or answer[-1] in (7, 8)
        assert not {7, 8} & set(answer[:-1])
    assert min(map(len, answers)) < 9
    ids, labels = arrays(prompts, answers)
    for prompt, answer, row, label in zip(prompts, answers, ids, labels, strict=True):
        start = len(prompt) - 1
        assert [*row[: start + len(answer)]] == [*prompt, *answer[:-1]]
        assert [*label[start : start + len(answer)]] == answer
        assert (label != IGNORE).sum() == len(answer)


@pytest.mark.parametrize("task", TASKS)
def test_the_mean_reward_rises_and_the_run_tells_of_it(tmp_path, make, task):
    tuner = make(task, max_iters=12, eval_interval=6, kl_coefficient=0.02)
    tuner.train()
    report = tuner.finish()
    lines = read_metrics(tmp_path / "run")
    batches = [line for line in lines if line["split"] == "batch"]
    assert {"reward", "kl", "clip_fraction", "length", "kl_coefficient"} <= batches[0].keys()
    first, *_, last = [line for line in lines if line["split"] == "val"]
    assert first["reward"] < 0.25 and last["reward"] > first["reward"] + 0.2  # the last bits change what is drawn
    assert first["kl"] == 0 < last["kl"]
    values = json.loads((tmp_path / "run/report.json").read_text())
    assert values == report.values
    test = values["test"]
    assert test["before"]["reward"] < 0.25 and test["before"]["kl"] == 0
    assert test["after"]["reward"] > test["before"]["reward"] + 0.2
    html = (tmp_path / "run/report.html").read_text()
    HTMLParser().feed(html)
    assert html.count("<svg") == 2 and not re.search(r'(src|href)="http', html)
    found = load_model(tmp_path / "run")  # a model like any other
    for name, array in tuner.trunk(tuner.open(tmp_path / "run/checkpoints/step-000012")).state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[name], array)


def test_the_divergence_is_kept_in_bounds(tmp_path, make):
    """With the letter that is rewarded the policy would go as far as it can."""
    ends = []
    for run, target in (("free", None), ("bound", 0.05)):
        make(run=run, kl_coefficient=0.02, kl_target=target, max_iters=16, eval_interval=16).train()
        ends.append(read_metrics(tmp_path / run)[-1]["kl"])
    assert ends[0] > 0.5 and ends[1] < 0.2
    assert [adapted(1.0, kl, 0.1) for kl in (9.0, 0.11, 0.1, 0.0)] == pytest.approx([1.2, 1.1, 1.0, 0.8])
    assert adapted(1.0, 9.0, None) == 1


@pytest.mark.parametrize(
    ("task", "changes"),
    [("ppo", {"kl_target": 0.001, "lora": LoRAConfig(rank=2)}), ("grpo", {"gradient_accumulation_steps": 2})],
)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, make, interrupted, task, changes):
    changes = changes | {"max_iters": 4, "eval_interval": 2}
    whole = make(task, "whole", **changes)
    whole.train()
    parts = make(task, "parts", **changes)
    interrupted(parts, 2)
    assert checkpoint.newest(tmp_path / "parts").name == "step-000003"
    random.manual_seed(99)  # whatever happens in between
    resumed = make(task, "parts", **changes)
    resumed.train()
    last = "checkpoints/step-000004"
    for file in (tmp_path / "whole" / last).iterdir():
        assert (tmp_path / "parts" / last / file.name).read_bytes() == file.read_bytes(), file.name
    assert resumed.finish().values == whole.finish().values
    assert (whole.kl_coefficient != 0.05) == ("kl_target" in changes)


BAD_SETTINGS = {
    "reward": ("", "there is no reward: give --reward"),
    "minibatches": (0, "minibatches must be at least 1"),
    "clip": (1.0, "clip must be between 0 and 1"),
    "kl_coefficient": (-1.0, "kl_coefficient must not be negative"),
    "kl_target": (0.0, "kl_target must be more than 0"),
    "lam": (2.0, "lam must be from 0 to 1"),
    "value_coefficient": (-1.0, "value_coefficient must not be negative"),
    "train": ("head", "there is no new head to train alone"),
    "max_new_tokens": (15, "no prompt leaves room for 15 tokens: lower max_new_tokens"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_settings_that_do_not_work_are_one_line(tmp_path, make, name):
    value, message = BAD_SETTINGS[name]
    with pytest.raises(UserError, match=message) as caught:
        make(**{name: value})
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


BAD_PROMPTS = {
    "no prompt": ('{"question": "a"}\n', "line 1: there is no field 'prompt', but 'question'"),
    "malformed": ('{"prompt": "a"}\n{"prompt"\n', "line 2 is no JSON"),
    "an unknown letter": ('{"prompt": "a"}\n{"prompt": "z"}\n', "line 2: .*'z'"),
    "an empty prompt": ('{"prompt": ""}\n', "line 1: 'prompt' is empty"),
    "too few": ('{"prompt": "a"}\n', "1 examples are too few"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts_are_one_line_and_leave_nothing(tmp_path, make, case):
    text, message = BAD_PROMPTS[case]
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        make(data=str(tmp_path / "bad.jsonl"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_group_of_one_is_refused():
    with pytest.raises(UserError, match="group_size must be at least 2, not 1"):
        GRPOConfig(model="x", data="x", reward="sum", group_size=1)


@pytest.mark.parametrize("task", TASKS)
def test_the_command_line(tmp_path, base, data, capsys, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    settings = {
        "model": base,
        "data": data,
        "style": "plain",
        "reward": "letter:e",
        "max_new_tokens": 4,
        "max_iters": 1,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert cli.main(["finetune", task, *flags]) == 0
    out = capsys.readouterr().out
    assert "32 train, 4 val, 4 test prompts, as plain; the reward is letter:e" in out and "mean reward" in out
    assert (tmp_path / f"runs/prompts-{task}/report.html").is_file()
    assert cli.main(["finetune", task, *flags, "--reward", "letters:e"]) == 2
    assert "cannot import the reward letters:e" in capsys.readouterr().err
