"""The Llama against its twin in PyTorch: logits, loss and every gradient; what a cache and padding must not change."""

import numpy as np
import pytest
import torch

from tinygrad_llm import UserError, kernels, manual_seed
from tinygrad_llm.models import GPT, LLAMA_PRESETS, GPTConfig, LanguageModel, Llama, LlamaConfig
from tinygrad_llm.optim import AdamW
from tinygrad_llm.reference import llama as reference

SHAPE = {
    "vocab_size": 65,
    "block_size": 33,
    "n_layer": 2,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 24,
    "intermediate_size": 50,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
VARIANTS = [
    {},
    {"tie_weights": True, "n_kv_head": 4},
    {"attention_bias": True, "n_kv_head": 1},
    {"attention_bias": True, "attention_output_bias": True, "mlp_bias": True, "head_dim": 10, "norm_eps": 1e-3},
]


def llama(dtype="float64", **config) -> Llama:
    manual_seed(3)
    model = Llama(LlamaConfig(**{**SHAPE, **config}))
    for parameter in model.parameters():  # biases and norms start at 0 and 1, where many a mistake does not show
        parameter.data = parameter.data + np.random.default_rng(2).normal(0, 0.2, parameter.shape)
    return model.to(dtype)


def batch(seed=0, size=(3, 33)):
    random = np.random.default_rng(seed)
    return random.integers(0, 65, size), random.integers(0, 65, size)


def close(ours, exact, tolerance: float) -> bool:
    return np.abs(ours - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.parametrize("kernel_set", ["numpy", *kernels.builtin_sets()])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_logits_loss_and_every_gradient(variant, kernel_set):
    ours = llama(**variant)
    theirs = reference.Llama(ours.config).double()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    ids, targets = batch()
    with kernels.use(kernel_set):
        logits, loss = ours(ids), ours.loss(ids, targets)
        loss.backward()
    expected = theirs.loss(torch.tensor(ids), torch.tensor(targets))
    expected.backward()
    assert close(logits.data, theirs(torch.tensor(ids)).detach().numpy(), 1e-12)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = max(gradients[name].grad.abs().max().item(), 1e-3)  # the key bias has none at all
        assert np.abs(parameter.grad - gradients[name].grad.numpy()).max() <= 1e-11 * scale, name


def test_it_learns():
    model = llama("float32")
    optimizer = AdamW(model.parameters(), lr=1e-2)
    ids, targets = batch()
    losses = []
    for _ in range(30):
        loss = model.loss(ids, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 2


def test_no_token_sees_a_later_one():
    model = llama()
    ids, _ = batch()
    changed = ids.copy()
    changed[:, 20:] = 1
    assert np.array_equal(model(ids).data[:, :20], model(changed).data[:, :20])


@pytest.fixture(params=["gpt", "llama"])
def model(request) -> LanguageModel:
    if request.param == "llama":
        return llama()
    manual_seed(3)
    gpt = GPT(GPTConfig(vocab_size=65, block_size=33, n_layer=2, n_head=3, n_embd=24)).double()
    for parameter in gpt.parameters():
        parameter.data *= 4
    return gpt


@pytest.mark.parametrize("pieces", [[33], [5, 28], [1] * 33, [7, 1, 3, 22]], ids=str)
def test_a_cache_gives_what_the_whole_sequence_gives(model, pieces):
    ids, _ = batch()
    cache = model.new_cache(3)
    ends = np.cumsum(pieces)
    logits = [model(part, cache).data for part in np.split(ids, ends[:-1], axis=1)]
    assert cache.length == 33
    assert close(np.concatenate(logits, 1), model(ids).data, 1e-12)


def test_a_row_padded_on_the_left_gives_what_it_gives_alone(model):
    lengths = [9, 1, 4]
    rows = [np.random.default_rng(i).integers(0, 65, length + 6) for i, length in enumerate(lengths)]
    padding = [max(lengths) - length for length in lengths]
    prompts = [np.concatenate([np.zeros(pad, int), row[:-6]]) for pad, row in zip(padding, rows, strict=True)]
    cache = model.new_cache(3, 15, padding)
    rest = np.stack([row[-6:] for row in rows])
    pieces = [np.stack(prompts), rest[:, :4], rest[:, 4:5], rest[:, 5:]]
    logits = np.concatenate([model(piece, cache).data for piece in pieces], 1)
    for row, pad, got in zip(rows, padding, logits, strict=True):
        assert close(got[pad:], model(row[None]).data[0], 1e-12)


def test_the_cache_has_limits(model):
    cache = model.new_cache(1, 4)
    with pytest.raises(UserError, match="5 tokens are more than the cache has room for: 4"):
        model(np.zeros((1, 5), int), cache)
    with pytest.raises(UserError, match="34 tokens are more than the block size of 33"):
        model(np.zeros((1, 34), int), cache)
    with pytest.raises(UserError, match="padding must be 2 numbers from 0 on"):
        model.new_cache(2, padding=[1])


def test_presets_have_the_published_numbers_of_parameters():
    published = {"smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "tinyllama-1.1b": 1_100_048_384}
    for preset, numbers in published.items():
        c = LlamaConfig(**LLAMA_PRESETS[preset])
        attention = 2 * c.n_embd * c.head_dim * (c.n_head + c.n_kv_head)
        block = attention + 3 * c.n_embd * c.intermediate_size + 2 * c.n_embd
        assert c.n_layer * block + c.n_embd + (1 if c.tie_weights else 2) * c.vocab_size * c.n_embd == numbers


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_kv_head": 3}, "n_head 4 is not divisible by n_kv_head 3"),
        ({"n_embd": 25}, "n_embd 25 is not divisible by n_head 4"),
        ({"n_layer": 0}, "n_layer must be at least 1, not 0"),
        ({"n_kv_head": -1}, "n_kv_head must be at least 1, not -1"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"rope_theta": 0.0}, "rope_theta above 1"),
        ({"norm_eps": float("nan")}, "norm_eps must not be negative"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not one of linear, dynamic, llama3, yarn"),
        ({"rope_scaling": YARN | {"beta_slow": -1}}, "no finite frequencies come of rope_theta"),
        ({"rope_scaling": {"rope_type": "linear"}}, "needs a number above 0 as factor, not None"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "needs a number above 0 as factor, not 0"),
    ],
)
def test_configurations_that_make_no_sense(wrong, message):
    with pytest.raises(UserError, match=message):
        LlamaConfig(**{**SHAPE, **wrong})
