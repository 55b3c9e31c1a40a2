"""The objectives of alignment against torch's autograd, trl's own functions, and their definitions."""

import math
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from tinygrad_llm import Tensor, UserError
from tinygrad_llm.finetuning import objectives
from tinygrad_llm.models import GPT, PRESETS, GPTConfig

RANDOM = np.random.default_rng(0)
B, T = 5, 7
LENGTHS = RANDOM.integers(1, T + 1, (2, B))


def numbers(*shape):
    return RANDOM.normal(size=shape)


def agree(ours, theirs, *inputs):
    """The two functions' values and gradients on the same numbers."""
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    torches = [torch.tensor(x, requires_grad=True) for x in inputs]
    y, expected = ours(*tensors), theirs(*torches)
    assert np.allclose(y.data, expected.detach().numpy(), rtol=1e-12, atol=1e-14)
    y.sum().backward()
    expected.sum().backward()
    for tensor, other in zip(tensors, torches, strict=True):
        assert np.allclose(tensor.grad, other.grad.numpy(), rtol=1e-12, atol=1e-14)


def trl_dpo(loss, beta, mask, reference_chosen, reference_rejected):
    """trl's DPOTrainer._compute_loss on log-probabilities of tokens that are given to it."""
    trl = pytest.importorskip("trl", reason="trl is what DPO is compared with")
    trainer = MagicMock(
        loss_types=[loss],
        loss_weights=[1.0],
        beta=beta,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        precompute_ref_logps=True,
        aux_loss_enabled=False,
        use_weighting=False,
        label_smoothing=0.0,
    )
    trainer.accelerator.gather_for_metrics = lambda x: x
    trainer.accelerator.gather = lambda x: x

    def compute(log_probs):
        zeros = torch.zeros_like(log_probs)
        outputs = SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
        inputs = {
            "input_ids": torch.zeros(mask.shape, dtype=torch.long),
            "attention_mask": torch.ones(mask.shape),
            "completion_mask": mask,
            "ref_chosen_logps": torch.tensor(reference_chosen),
            "ref_rejected_logps": torch.tensor(reference_rejected),
        }
        return trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)

    return compute


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_dpo_is_trls(loss):
    beta, reference = 0.3, numbers(2, B)
    mask = torch.tensor(np.arange(T + 1) > T - LENGTHS.reshape(-1, 1)).long()  # the prompt, then the answer
    log_probs = numbers(2 * B, T) * mask[:, 1:].numpy()

    def ours(x):
        sums = x.sum(-1)
        losses = objectives.dpo(sums[:B], sums[B:], *reference, beta, loss, lengths=tuple(LENGTHS))
        return losses.mean()

    agree(ours, trl_dpo(loss, beta, mask, *reference), log_probs)


def test_smoothed_dpo_is_its_formula():
    reference = numbers(2, B)

    def theirs(chosen, rejected):
        h = 0.2 * (chosen - torch.tensor(reference[0]) - rejected + torch.tensor(reference[1]))
        return -0.9 * TF.logsigmoid(h) - 0.1 * TF.logsigmoid(-h)

    agree(lambda c, r: objectives.dpo(c, r, *reference, 0.2, label_smoothing=0.1), theirs, *numbers(2, B))


def test_dpo_begins_with_log_2():
    chosen, rejected = numbers(2, B)
    loss = objectives.dpo(Tensor(chosen), Tensor(rejected), chosen, rejected, 0.1)
    assert np.allclose(loss.data, math.log(2), rtol=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "kto"}, "must be sigmoid, ipo or hinge, not 'kto'"),
        ({"label_smoothing": 0.5}, "below 0.5"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "sigmoid's alone"),
        ({"loss": "ipo"}, "ipo needs the lengths"),
    ],
)
def test_dpo_says_what_is_wrong(settings, message):
    with pytest.raises(UserError, match=message):
        objectives.dpo(Tensor(numbers(B)), Tensor(numbers(B)), numbers(B), numbers(B), **settings)


def test_bradley_terry_is_trls():
    trl = pytest.importorskip("trl", reason="trl is what the reward model's loss is compared with")
    trainer = MagicMock(args=SimpleNamespace(center_rewards_coefficient=None))
    margin = numbers(B)

    def theirs(chosen, rejected):
        outputs = SimpleNamespace(logits=torch.cat([chosen, rejected])[:, None])
        inputs = {"margin": torch.tensor(margin), "attention_mask": torch.ones(2 * B, 1)}
        return trl.RewardTrainer.compute_loss(trainer, lambda **_: outputs, inputs)

    agree(lambda c, r: objectives.bradley_terry(c, r, margin).mean(), theirs, *numbers(2, B))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_the_plain_double_sum(gamma, lam):
    rewards, values = numbers(2, B, T)
    starts = [0, 2, 1, 0, 3]
    ends = [7, 5, 7, 1, 4]
    mask = np.array([[start <= t < end for t in range(T)] for start, end in zip(starts, ends, strict=True)], float)
    found, returns = objectives.advantages(rewards, values, mask, gamma, lam)
    for b in range(B):
        for t in range(T):
            expected = 0.0
            for later in range(t, ends[b]) if mask[b, t] else ():
                following = values[b, later + 1] if later + 1 < ends[b] else 0.0
                delta = rewards[b, later] + gamma * following - values[b, later]
                expected += (gamma * lam) ** (later - t) * delta
            assert found[b, t] == pytest.approx(expected, abs=1e-12)
            assert returns[b, t] == pytest.approx(mask[b, t] * (expected + values[b, t]), abs=1e-12)


def test_the_clipped_objective_and_its_gradient():
    old, advantage = numbers(2, B, T)

    def theirs(log_p):
        ratio = (log_p - torch.tensor(old)).exp()
        a = torch.tensor(advantage)
        return -torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a)

    agree(lambda log_p: objectives.clipped(log_p, old, advantage, 0.2), theirs, old + 0.3 * numbers(B, T))


def test_the_clipped_value_and_its_gradient():
    old, returns = numbers(2, B, T)

    def theirs(values):
        near = torch.tensor(old) + (values - torch.tensor(old)).clamp(-0.2, 0.2)
        return 0.5 * torch.max((values - torch.tensor(returns)) ** 2, (near - torch.tensor(returns)) ** 2)

    agree(lambda values: objectives.clipped_value(values, old, returns, 0.2), theirs, old + 0.3 * numbers(B, T))


def trl_grpo(loss_type, mask, old, reference, advantage, beta):
    trl = pytest.importorskip("trl", reason="trl is what GRPO is compared with")
    trainer = MagicMock(
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
    )
    trainer.accelerator.gather = lambda x: x
    trainer.accelerator.reduce = lambda x, reduction: x

    def compute(log_p):
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (log_p, torch.zeros_like(log_p), None)
        inputs = {
            "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
            "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
            "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
            "completion_mask": torch.tensor(mask),
            "advantages": torch.tensor(advantage),
            "old_per_token_logps": torch.tensor(old),
            "ref_per_token_logps": torch.tensor(reference),
        }
        return trl.GRPOTrainer._compute_loss(trainer, None, inputs)

    return compute


def test_grpo_is_trls():
    old, reference = numbers(2, B, T)
    mask = (np.arange(T) < LENGTHS[0][:, None]).astype(float)
    advantage = numbers(B)

    def ours(log_p):
        each = objectives.clipped(log_p, old, advantage[:, None], 0.2) + 0.04 * objectives.kl_estimate(log_p, reference)
        return objectives.masked_mean(each, mask)

    agree(ours, trl_grpo("bnpo", mask, old, reference, advantage, 0.04), old + 0.3 * numbers(B, T))


def test_advantages_in_a_group():
    rewards = numbers(3, 4)
    found = objectives.group_advantages(rewards)
    assert np.allclose(found.mean(axis=1), 0, atol=1e-12)
    assert np.allclose(found.std(axis=1, ddof=1), 1, rtol=1e-3)
    assert np.array_equal(objectives.group_advantages(np.ones((2, 3))), np.zeros((2, 3)))
    assert np.allclose(objectives.group_advantages(rewards, scale=False), rewards - rewards.mean(1, keepdims=True))


def test_the_estimate_of_the_divergence_is_without_bias():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    each = objectives.kl_estimate(Tensor(np.log(p)), np.log(q)).data
    assert (each >= 0).all()
    assert (p * each).sum() == pytest.approx((p * np.log(p / q)).sum(), rel=1e-12)


def test_normalized_inside_the_mask():
    x, mask = numbers(B, T), (np.arange(T) < LENGTHS[1][:, None]).astype(float)
    found = objectives.normalized(x, mask)
    assert found[mask == 1].mean() == pytest.approx(0, abs=1e-12)
    assert found[mask == 1].std() == pytest.approx(1, rel=1e-6)
    assert not found[mask == 0].any()


def test_log_probabilities_are_those_of_the_logits():
    model = GPT(GPTConfig(**PRESETS["tiny"] | {"vocab_size": 11})).double()
    ids = RANDOM.integers(0, 11, (B, T))
    labels = np.where(RANDOM.random((B, T)) < 0.4, objectives.IGNORE, RANDOM.integers(0, 11, (B, T)))
    logits = torch.tensor(model(ids).data).log_softmax(-1)
    picked = logits.gather(-1, torch.tensor(labels).clamp(min=0)[..., None])[..., 0]
    expected = torch.where(torch.tensor(labels) >= 0, picked, 0.0)
    assert np.allclose(objectives.token_log_probabilities(model, ids, labels).data, expected, atol=1e-12)
    found = objectives.sequence_log_probabilities(model, ids, labels)
    assert np.allclose(found.data, expected.sum(-1), atol=1e-12)


def test_tokens_that_do_not_count_have_no_gradient():
    model = GPT(GPTConfig(**PRESETS["tiny"] | {"vocab_size": 11})).double()
    ids = RANDOM.integers(0, 11, (1, T))
    labels = np.full((1, T), objectives.IGNORE)
    objectives.sequence_log_probabilities(model, ids, labels).sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
