"""Log-likelihoods against transformers and against their definition, whatever the batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm import UserError, tokenizers
from tinygrad_llm.evaluation import log_likelihoods, score, scoring
from tinygrad_llm.formats.huggingface import load_pretrained
from tinygrad_llm.models import Llama, LlamaConfig
from tinygrad_llm.random import generator

PAIRS = [
    ("It is a far, far better", " thing"),
    ("that I do,", " than I have ever done; it is"),
    ("a", "b"),
    ("rest that I go to.", " Ω"),
    ("far far far far", " far"),
]


def requests(count: int, longest: int, vocab_size: int) -> list:
    """Random contexts and continuations of all lengths."""
    draw = generator(3)
    sizes = draw.integers(1, longest, (count, 2))
    return [tuple(draw.integers(0, vocab_size, n).tolist() for n in pair) for pair in sizes]


def transformers_gpt2(folder):
    """A random GPT-2 of transformers', and the same as ours."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=32, n_embd=24, n_layer=2, n_head=3, initializer_range=0.3
    )
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    theirs.save_pretrained(folder)
    return theirs, load_pretrained(folder)


def transformers_llama(folder):
    """A random Llama of transformers', and the same as ours."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"vocab_size": 256, "intermediate_size": 40}
    config = transformers.LlamaConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        max_position_embeddings=32, rms_norm_eps=1e-5, **shape,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    ours = Llama(LlamaConfig(block_size=32, n_layer=2, n_head=4, n_kv_head=2, n_embd=24, norm_eps=1e-5, **shape))
    ours.double().load_state_dict({name.removeprefix("model."): x.numpy() for name, x in theirs.state_dict().items()})
    return theirs, ours


@pytest.mark.parametrize("pair", [transformers_gpt2, transformers_llama])
def test_log_likelihoods_are_those_of_transformers(tmp_path, pair):
    theirs, ours = pair(tmp_path)
    import torch

    tokenizer = tokenizers.load("byte")
    for (context, continuation), (found, is_greedy) in zip(PAIRS, log_likelihoods(ours, tokenizer, PAIRS), strict=True):
        n = len(continuation.encode())
        ids = torch.tensor([list((context + continuation).encode())])[:, -33:]
        with torch.no_grad():
            logits = theirs(ids[:, :-1]).logits[0, -n:]
        expected = logits.log_softmax(-1).gather(1, ids[0, -n:, None]).sum().item()
        assert found == pytest.approx(expected, rel=1e-6)  # transformers rotates in float32
        assert is_greedy == bool((logits.argmax(-1) == ids[0, -n:]).all())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("rows", [1, 5, 256])
def test_batches_and_chunks_of_the_head_change_nothing(model, plain, monkeypatch, batch_size, rows):
    monkeypatch.setattr(scoring, "HEAD_ROWS", rows)
    monkeypatch.setattr(scoring, "MOST_TOKENS", 100)
    asked = requests(20, 24, model.config.vocab_size)
    for (context, continuation), found in zip(asked, score(model, asked, batch_size), strict=True):
        log_probs, is_greedy = plain(model, context, continuation)
        np.testing.assert_allclose(found.log_probs, log_probs, rtol=1e-10)
        assert found.is_greedy == is_greedy


def test_what_greedy_decoding_writes_is_greedy_and_nothing_else(model):
    prompt = [5, 9, 200]
    written = list(model.generate(prompt, 6, temperature=0))
    other = [*written[:-1], (written[-1] + 1) % 256]
    assert [s.is_greedy for s in score(model, [(prompt, written), (prompt, other)])] == [True, False]


def test_a_long_sequence_loses_its_beginning(model, plain):
    context, continuation = list(range(100, 180)), list(range(10))
    for length in (48, 12):
        [found] = score(model, [(context, continuation)], max_length=length)
        kept = context[-(length + 1 - len(continuation)) :]
        np.testing.assert_allclose(found.log_probs, plain(model, kept, continuation)[0], rtol=1e-10)
    [found] = score(model, [([1], continuation)], max_length=4)
    np.testing.assert_allclose(found.log_probs, plain(model, [5], continuation[-4:])[0], rtol=1e-10)


def test_a_model_in_training_is_scored_without_dropout_and_goes_on_training(model):
    model.eval()
    asked = requests(3, 9, 256)
    expected = score(model, asked)
    model.train()
    found = score(model, asked)
    assert model.training
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a.log_probs, b.log_probs)


TEXTS = st.text("It is far,.;\n Ωb", max_size=12)


@settings(max_examples=200, deadline=None)
@given(context=TEXTS, continuation=TEXTS.filter(bool))
def test_a_pair_is_cut_as_the_harness_does(tokenizer, context, continuation):
    found = scoring.encode_pair(tokenizer, context, continuation)
    if context.rstrip():
        whole = tokenizer.encode(context + continuation).tolist()
        context = tokenizer.encode(context.rstrip()).tolist()
        assert found == (context, whole[len(context) :])
    else:
        assert found == (list(tokenizer.eos_ids), tokenizer.encode(context + continuation).tolist())


def test_a_model_that_wants_a_token_before_texts_gets_it(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "bos_id", 7)
    text = tokenizer.encode("It is").tolist()
    assert scoring.encode_pair(tokenizer, "It", " is") == ([7, *text[:1]], text[1:])
    assert scoring.encode_pair(tokenizer, "", "It is") == ([7], text)


def test_a_vocabulary_without_such_a_token_begins_with_the_first():
    tokenizer = tokenizers.load("byte")
    assert scoring.encode_pair(tokenizer, "", " ab") == ([32], [97, 98])


def test_mistakes_are_one_line(model):
    with pytest.raises(UserError, match="request 1 has no context"):
        score(model, [([1], [2]), ([], [1])])
    with pytest.raises(UserError, match="batch_size must be at least 1, not 0"):
        score(model, [([1], [2])], batch_size=0)
    for length in (0, 49):
        with pytest.raises(UserError, match=f"max_length must be from 1 to 48, the model's block, not {length}"):
            score(model, [([1], [2])], max_length=length)
