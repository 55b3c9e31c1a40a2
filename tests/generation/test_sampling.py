"""Generation: the cache changes nothing, the settings do what they say."""

import numpy as np
import pytest

from tinygrad_llm import UserError, manual_seed
from tinygrad_llm.generation import generate, sample
from tinygrad_llm.models import GPT, GPTConfig


@pytest.fixture(scope="module")
def model() -> GPT:
    return make_model()


def make_model() -> GPT:
    manual_seed(5)
    model = GPT(GPTConfig(vocab_size=33, block_size=16, n_layer=2, n_head=2, n_embd=16))
    for parameter in model.parameters():  # larger weights, so that distributions have shape
        parameter.data *= 8
    return model


SETTINGS = [
    {"temperature": 0},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_k": 5, "seed": 2},
    {"temperature": 1.3, "top_p": 0.8, "seed": 3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_cache_gives_exactly_what_recomputing_gives(model, settings):
    """Forty tokens: within the block of sixteen, and beyond it."""
    cached = list(generate(model, [1, 2, 3], 40, **settings))
    assert cached == list(generate(model, [1, 2, 3], 40, use_cache=False, **settings))
    assert len(cached) == 40


def test_the_cache_gives_the_same_logits():
    model = make_model().double()
    ids = np.random.default_rng(0).integers(0, 33, (2, 16))
    cache = model.new_cache(2)
    pieces = [model(ids[:, :5], cache).data, *(model(ids[:, i : i + 1], cache).data for i in range(5, 16))]
    assert np.allclose(np.concatenate(pieces, 1), model(ids).data, rtol=0, atol=1e-11)


def test_greedy_takes_the_likeliest(model):
    tokens = [4, 5]
    for token in generate(model, tokens, 10, temperature=0):
        assert token == model(np.array([tokens])).data[0, -1].argmax()
        tokens.append(token)


def test_a_seed_decides(model):
    def draw(seed):
        return list(generate(model, [1], 12, seed=seed))

    assert draw(1) == draw(1) != draw(2)


def test_it_stops_at_the_token_and_says_nothing_of_it(model):
    free = list(generate(model, [1], 12, seed=1))
    stop = free[5]
    assert list(generate(model, [1], 12, seed=1, stop=stop)) == free[: free.index(stop)]


def test_dropout_is_off_and_the_mode_comes_back():
    model = GPT(GPTConfig(vocab_size=7, block_size=8, n_layer=1, n_head=1, n_embd=8, dropout=0.5))
    runs = {tuple(generate(model, [1], 8, temperature=0)) for _ in range(5)}
    assert len(runs) == 1
    assert model.training


def test_sample_follows_the_distribution():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    drawing = np.random.default_rng(0)

    def frequencies(**settings):
        return np.bincount([sample(np.log(p), drawing, **settings) for _ in range(4000)], minlength=4) / 4000

    assert frequencies() == pytest.approx(p, abs=0.03)
    assert frequencies(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert frequencies(top_p=0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)  # the fewest that reach it
    assert frequencies(temperature=0.5) == pytest.approx(p**2 / (p**2).sum(), abs=0.03)
    assert frequencies(top_k=1) == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (([], 5), {}, "the prompt is empty"),
        (([1] * 17, 5), {}, "the prompt has 17 tokens and the model's block 16"),
        (([33], 5), {}, "token 33 at .* is outside the vocabulary of 33"),
        (([1], -5), {}, "max_new_tokens must not be negative"),
        (([1], 5), {"temperature": -1}, "temperature must be 0"),
        (([1], 5), {"top_k": 0}, "top_k must be at least 1"),
        (([1], 5), {"top_p": 1.5}, "top_p must be above 0"),
    ],
)
def test_bad_settings(model, arguments, settings, message):
    with pytest.raises(UserError, match=message):
        list(generate(model, *arguments, **settings))
