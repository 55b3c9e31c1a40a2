"""Decoding: neither the cache nor the batch changes what is written."""

import numpy as np
import pytest

from tinygrad_llm import UserError, manual_seed
from tinygrad_llm.generation import Context, Decoding, Sampling, generate, generate_batch
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig


@pytest.fixture(scope="module")
def model() -> GPT:
    return make_model()


def make_model(**config) -> GPT:
    manual_seed(5)
    model = GPT(GPTConfig(**{"vocab_size": 33, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16, **config}))
    for parameter in model.parameters():  # larger weights, so that distributions have shape
        parameter.data *= 8
    return model


SETTINGS = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.5},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_k": 5, "seed": 2},
    {"temperature": 1.3, "top_p": 0.8, "min_p": 0.01, "seed": 3},
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


def make_llama() -> Llama:
    manual_seed(6)
    config = LlamaConfig(
        vocab_size=33, block_size=16, n_layer=2, n_head=4, n_kv_head=2, n_embd=16, intermediate_size=24
    )
    model = Llama(config)
    for parameter in model.parameters():
        parameter.data *= 8
    return model


@pytest.mark.parametrize("make", [make_model, make_llama])
@pytest.mark.parametrize("new", [8, 40])
def test_a_batch_is_each_prompt_alone(make, new):
    """Prompts from one token to a whole block; forty tokens go beyond it."""
    model = make().double()
    prompts = [[1], [7, 8, 9], list(range(16)), [7, 8, 9]]
    alone = [list(generate(model, prompt, new, temperature=0, use_cache=False)) for prompt in prompts]
    assert generate_batch(model, prompts, new, temperature=0) == alone


def test_rows_of_a_batch_draw_by_streams_of_their_own():
    model = make_model().double()
    rows = generate_batch(model, [[1, 2]] * 4, 12, seed=3)
    assert rows == generate_batch(model, [[1, 2]] * 4, 12, seed=3)
    assert rows[0] == list(generate(model, [1, 2], 12, seed=3))
    assert len(set(map(tuple, rows))) == 4


def watch_reading(monkeypatch) -> list[tuple[int, int]]:
    """The shapes of what models read from now on."""
    read, hidden = [], GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda self, ids, cache: read.append(ids.shape) or hidden(self, ids, cache))
    return read


def test_equal_prompts_are_read_once(model, monkeypatch):
    read = watch_reading(monkeypatch)
    generate_batch(model, [[1, 2, 3]] * 4, 3, temperature=0)
    assert read == [(1, 3), (4, 1), (4, 1)]


def test_prompts_that_only_look_equal_are_not_taken_for_one():
    """Padding is token 0 too."""
    model = make_model().double()
    prompts = [[0, 1, 2], [1, 2]]
    alone = [list(generate(model, prompt, 8, temperature=0)) for prompt in prompts]
    assert generate_batch(model, prompts, 8, temperature=0) == alone


def test_a_context_reads_only_what_is_new(model, monkeypatch):
    read = watch_reading(monkeypatch)
    context = Context(model, 1, 16)

    def write(prompt):
        read.clear()
        return next(iter(Decoding(model, [prompt], 1, Sampling(temperature=0), context=context)))[0]

    for prompt, new in [([1, 2, 3], 3), ([1, 2, 3, 4, 5], 2), ([1, 2, 9, 4, 5], 3), ([1, 2, 9, 4, 5], 1), ([1, 2], 1)]:
        token = write(prompt)
        assert read == [(1, new)]
        assert token == next(generate(model, prompt, 1, temperature=0, use_cache=False))


def test_a_context_that_was_interrupted_between_layers_reads_anew(model, monkeypatch):
    forward = type(model.h[0]).forward

    def interrupted(self, *arguments):
        if self is model.h[1]:
            raise KeyboardInterrupt
        return forward(self, *arguments)

    context = Context(model, 1, 16)
    list(Decoding(model, [[1, 2, 3]], 1, context=context))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(model.h[0]), "forward", interrupted)
        list(Decoding(model, [[1, 2, 3, 4, 5]], 1, context=context))
    assert len({layer.length for layer in context.cache.layers}) == 2
    decoding = Decoding(model, [[1, 2, 3, 5]], 4, Sampling(temperature=0), context=context)
    list(decoding)
    assert decoding.tokens[0] == list(generate(model, [1, 2, 3, 5], 4, temperature=0))


def test_a_seed_decides(model):
    def draw(seed):
        return list(generate(model, [1], 12, seed=seed))

    assert draw(1) == draw(1) != draw(2)


def test_without_a_seed_it_is_manual_seed_that_decides(model):
    def draw():
        manual_seed(9)
        return list(generate(model, [1], 12))

    assert draw() == draw() != list(generate(model, [1], 12))


def test_it_stops_at_a_token_and_says_nothing_of_it(model):
    free = list(generate(model, [1], 12, seed=1))
    stop = free[5]
    assert list(generate(model, [1], 12, seed=1, stop_tokens=[stop, 999])) == free[: free.index(stop)]


def test_rows_end_each_at_its_stop_token(model):
    prompts = [[1], [2, 3], [4]]
    free = generate_batch(model, prompts, 12, temperature=0)
    stop = free[1][3]
    decoding = Decoding(model, prompts, 12, Sampling(temperature=0), [stop])
    steps = list(decoding)
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert decoding.tokens == expected
    assert [[step[row] for step in steps if row in step] for row in range(3)] == expected
    assert decoding.finish_reasons == ["stop" if stop in row else "length" for row in free]


def test_a_reader_may_end_a_row(model):
    decoding = Decoding(model, [[1], [2]], 10, Sampling(temperature=0))
    for number, _ in enumerate(decoding):
        if number == 2:
            decoding.end(1)
        if number == 4:
            decoding.end(0)
    assert [len(row) for row in decoding.tokens] == [5, 3]
    assert decoding.finish_reasons == ["stop", "stop"]


def test_the_cache_is_as_long_as_the_text_can_become(model):
    assert Decoding(model, [[1, 2], [3]], 5).context.cache.capacity == 7
    assert Decoding(model, [[1, 2]], 50).context.cache.capacity == 16


def test_dropout_is_off_and_the_mode_comes_back():
    model = make_model(dropout=0.5)
    runs = {tuple(generate(model, [1], 8, temperature=0)) for _ in range(5)}
    assert len(runs) == 1
    assert model.training


def test_the_method_gives_what_the_function_gives(model):
    assert model.generate([1, 2], 6, seed=4) == list(generate(model, [1, 2], 6, seed=4))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (([], 5), {}, "the prompt is empty"),
        (([1] * 17, 5), {}, "the prompt has 17 tokens and the model's block 16"),
        (([33], 5), {}, "token 33 at .* is outside the vocabulary of 33"),
        (([1], -5), {}, "max_new_tokens must not be negative"),
        (([1], 5), {"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_bad_input(model, arguments, settings, message):
    with pytest.raises(UserError, match=message):
        list(generate(model, *arguments, **settings))
    with pytest.raises(UserError, match=message):
        generate_batch(model, [[1], arguments[0]], arguments[1], **settings)


def test_no_prompts(model):
    with pytest.raises(UserError, match="no prompt"):
        generate_batch(model, [], 5)
