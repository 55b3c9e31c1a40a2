"""Sampling: each setting as transformers has it, and tokens as often as their probabilities say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from tinygrad_llm import UserError, random
from tinygrad_llm.generation import Sampling, sampling

LOGITS = np.random.default_rng(0).normal(0, 3, (5, 97))
TEXTS = np.random.default_rng(1).integers(0, 97, (5, 40))

PAIRS = [
    (lambda x: sampling.keep_top_k(x, 1), hf.TopKLogitsWarper(1)),
    (lambda x: sampling.keep_top_k(x, 7), hf.TopKLogitsWarper(7)),
    (lambda x: sampling.keep_top_k(x, 1000), hf.TopKLogitsWarper(1000)),
    (lambda x: sampling.keep_top_p(x, 1e-9), hf.TopPLogitsWarper(1e-9)),
    (lambda x: sampling.keep_top_p(x, 0.5), hf.TopPLogitsWarper(0.5)),
    (lambda x: sampling.keep_top_p(x, 0.95), hf.TopPLogitsWarper(0.95)),
    (lambda x: sampling.keep_top_p(x, 1), hf.TopPLogitsWarper(1)),
    (lambda x: sampling.keep_min_p(x, 0), hf.MinPLogitsWarper(0.0)),
    (lambda x: sampling.keep_min_p(x, 0.05), hf.MinPLogitsWarper(0.05)),
    (lambda x: sampling.keep_min_p(x, 1), hf.MinPLogitsWarper(1.0)),
    (lambda x: sampling.penalize_repetition(x, TEXTS, 1.3), hf.RepetitionPenaltyLogitsProcessor(1.3)),
    (lambda x: sampling.penalize_repetition(x, TEXTS, 0.7), hf.RepetitionPenaltyLogitsProcessor(0.7)),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_each_setting_is_that_of_transformers(ours, theirs):
    before = LOGITS.copy()
    expected = theirs(torch.tensor(TEXTS), torch.tensor(LOGITS)).numpy()
    np.testing.assert_allclose(ours(LOGITS), expected, rtol=1e-14)
    assert (before == LOGITS).all()


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 5),
    st.none() | st.integers(1, 40),
    st.none() | st.floats(0.01, 0.99),
    st.none() | st.floats(0.01, 0.99),
    st.floats(0.5, 2),
)
def test_together_they_have_the_order_of_transformers(seed, temperature, top_k, top_p, min_p, penalty):
    """The distribution that is drawn from, on logits of a new seed each time."""
    rng = np.random.default_rng(seed)
    logits, texts = rng.normal(0, 3, (2, 33)), rng.integers(0, 33, (2, 5))
    chain = [hf.RepetitionPenaltyLogitsProcessor(penalty), hf.TemperatureLogitsWarper(temperature)]
    chain += [] if top_k is None else [hf.TopKLogitsWarper(top_k)]
    chain += [] if top_p is None else [hf.TopPLogitsWarper(top_p)]
    chain += [] if min_p is None else [hf.MinPLogitsWarper(min_p)]
    scores = torch.tensor(logits)
    for process in chain:
        scores = process(torch.tensor(texts), scores)
    settings = Sampling(temperature, top_k, top_p, min_p, penalty)
    np.testing.assert_allclose(distribution(settings, logits, texts), scores.softmax(-1).numpy(), atol=1e-9)


def distribution(settings: Sampling, logits: np.ndarray, texts) -> np.ndarray:
    """What `choose` would draw from."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "draw", lambda logits, drawings: caught.append(logits) or np.arange(logits.shape[1]))
        tokens = settings.choose(logits, [], texts)  # those that are left to draw from
    p = np.zeros_like(logits)
    p[:, tokens] = np.exp(caught[0] - caught[0].max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tokens_come_as_often_as_their_probabilities_say(dtype):
    """Chi-square of 40,000 draws; its 99.9th percentile for 9 degrees of freedom is 27.9."""
    p = np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.03, 0.015, 0.005])
    logits = np.tile(np.log(p) + 5, (4, 1)).astype(dtype)
    drawings = [random.generator(0, row) for row in range(4)]
    draws = np.concatenate([sampling.draw(logits, drawings) for _ in range(10_000)])
    expected = p * len(draws)
    assert ((np.bincount(draws, minlength=10) - expected) ** 2 / expected).sum() < 27.9


def test_what_is_ruled_out_never_comes():
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    drawing = [random.generator(1)]
    draws = [Sampling(top_p=0.7).choose(logits, drawing, [[]])[0] for _ in range(500)]
    assert set(draws) == {0, 1}  # the fewest that reach it


def test_temperature_zero_takes_the_likeliest_and_draws_nothing():
    assert Sampling(temperature=0).choose(LOGITS, [], TEXTS).tolist() == LOGITS.argmax(-1).tolist()
    penalized = sampling.penalize_repetition(LOGITS, TEXTS, 5.0)
    chosen = Sampling(temperature=0, repetition_penalty=5.0).choose(LOGITS, [], TEXTS)
    assert chosen.tolist() == penalized.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e6, 1e300])
def test_extreme_temperatures_overflow_nothing(temperature):
    drawings = [random.generator(row) for row in range(5)]
    with np.errstate(over="raise", invalid="raise"):
        chosen = Sampling(temperature=temperature).choose(LOGITS.astype(np.float32), drawings, TEXTS)
    assert temperature > 1 or chosen.tolist() == LOGITS.argmax(-1).tolist()


def test_streams_of_a_seed_differ_and_the_first_is_the_seeds():
    first = [random.generator(seed, stream).random() for seed in range(20) for stream in range(20)]
    assert len(set(first)) == 400
    assert random.generator(3, 0).random() == random.generator(3).random()


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        Sampling().choose(np.array([[1.0, np.nan]]), [random.generator(0)], [[]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Sampling(**settings)
