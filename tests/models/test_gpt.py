"""The GPT against its twin in PyTorch: logits, loss, every gradient, and a hundred steps of training."""

import itertools

import numpy as np
import pytest
import torch

from tinygrad_llm import UserError, kernels, manual_seed
from tinygrad_llm.models import GPT, PRESETS, GPTConfig
from tinygrad_llm.optim import AdamW, decay_groups
from tinygrad_llm.reference import gpt as reference

SHAPE = {"vocab_size": 65, "block_size": 33, "n_layer": 2, "n_head": 3, "n_embd": 24}
VARIANTS = [
    {"bias": bias, "activation": activation, "tie_weights": tied}
    for bias, activation, tied in itertools.product((True, False), ("gelu_tanh", "gelu"), (True, False))
]


def twins(dtype="float64", **config) -> tuple[GPT, reference.GPT]:
    config = GPTConfig(**{**SHAPE, **config})
    manual_seed(3)
    ours = GPT(config).to(dtype)
    theirs = reference.GPT(config).to(getattr(torch, dtype))
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    return ours, theirs


def batch(seed=0, size=(3, 33), vocabulary=65):
    random = np.random.default_rng(seed)
    return random.integers(0, vocabulary, size), random.integers(0, vocabulary, size)


@pytest.mark.parametrize("kernel_set", ["numpy", *kernels.builtin_sets()])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_logits_loss_and_every_gradient(variant, kernel_set):
    ours, theirs = twins(**variant)
    ids, targets = batch()
    with kernels.use(kernel_set):
        logits, loss = ours(ids), ours.loss(ids, targets)
        loss.backward()
    expected = theirs.loss(torch.tensor(ids), torch.tensor(targets))
    expected.backward()
    assert np.allclose(logits.data, theirs(torch.tensor(ids)).detach().numpy(), rtol=0, atol=1e-12)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert np.allclose(parameter.grad, gradients[name].grad.numpy(), rtol=0, atol=1e-12), name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_the_same_hundred_steps(dtype, tolerance):
    """Same start, same batches, AdamW with decay groups and clipping: the same loss at every step."""
    ours, theirs = twins(dtype, bias=True)
    our_optimizer = AdamW(decay_groups(ours.parameters(), 0.1), lr=1e-2, betas=(0.9, 0.99))
    their_optimizer = reference.adamw(theirs, learning_rate=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    ours_losses, their_losses = [], []
    for step in range(100):
        ids, targets = batch(step % 7)
        loss = ours.loss(ids, targets)
        our_optimizer.zero_grad()
        loss.backward()
        _, scale = our_optimizer.clip_grad_norm(1.0)
        our_optimizer.step(scale)
        ours_losses.append(loss.item())
        their_losses.append(
            reference.train_step(theirs, their_optimizer, torch.tensor(ids), torch.tensor(targets), grad_clip=1.0)
        )
    assert np.abs(np.subtract(ours_losses, their_losses)).max() <= tolerance
    assert ours_losses[-1] < ours_losses[0] - 0.3  # and it learned


def test_no_token_sees_a_later_one():
    model, _ = twins()
    ids, _ = batch()
    changed = ids.copy()
    changed[:, 20:] = 1
    assert np.array_equal(model(ids).data[:, :20], model(changed).data[:, :20])


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("gpt2", 124.4), ("gpt2-medium", 354.8), ("gpt2-large", 774.0), ("gpt2-xl", 1557.6)],
)
def test_presets_have_the_published_numbers_of_parameters(preset, millions):
    c = GPTConfig(**PRESETS[preset])
    width, block = c.n_embd, 12 * c.n_embd**2 + 13 * c.n_embd
    assert (c.n_layer * block + (c.vocab_size + c.block_size + 2) * width) / 1e6 == pytest.approx(millions, abs=0.06)


def test_the_formula_for_the_number_of_parameters():
    c = GPTConfig(**SHAPE)
    block = 12 * c.n_embd**2 + 13 * c.n_embd
    assert GPT(c).numel() == c.n_layer * block + (c.vocab_size + c.block_size + 2) * c.n_embd


def test_initialization():
    manual_seed(0)
    model = GPT(GPTConfig(vocab_size=1023, block_size=33, n_layer=8, n_head=2, n_embd=64))
    assert model.wte.weight.data.std() == pytest.approx(0.02, rel=0.02)
    assert model.h[3].mlp.c_fc.weight.data.std() == pytest.approx(0.02, rel=0.03)
    assert model.h[3].mlp.c_proj.weight.data.std() == pytest.approx(0.02 / 4, rel=0.03)
    assert (model.h[0].attn.c_attn.bias.data == 0).all()
    assert (model.ln_f.weight.data == 1).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_embd": 25}, "n_embd 25 is not divisible by n_head 3"),
        ({"n_layer": 0}, "n_layer must be at least 1, not 0"),
        ({"block_size": -1}, "block_size must be at least 1, not -1"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"activation": "swish"}, "activation must be"),
    ],
)
def test_configurations_that_make_no_sense(wrong, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**{**SHAPE, **wrong})


def test_bad_tokens():
    model, _ = twins()
    with pytest.raises(UserError, match=r"token 65 at \[0, 1\] is outside the vocabulary of 65"):
        model(np.array([[1, 65]]))
    with pytest.raises(UserError, match="34 tokens are more than the block size of 33"):
        model(np.zeros((1, 34), int))
