"""The race of generating: what a token reads, and how sides are compared."""

import pytest

from tinygrad_llm.bench import decode
from tinygrad_llm.formats import load_model
from tinygrad_llm.models import GPT, GPTConfig


def test_the_bytes_of_a_token():
    config = GPTConfig(vocab_size=10, block_size=8, n_layer=1, n_head=1, n_embd=4, bias=False)
    block = 4 * (3 * 4 * 4 + 4 * 4 + 2 * 4 * 16 + 2 * 4) + 4 * 4
    assert decode.bytes_read(GPT(config)) == block + 4 * 10 * 4


def test_the_bytes_of_a_quantized_model_are_its_files(smollm2):
    tensors = decode.bytes_read(load_model(smollm2, quantized=True))
    assert 0.95 < tensors / smollm2.stat().st_size < 1  # but for its vocabulary


def test_the_limit_takes_no_part():
    result = decode.comparison({"ours": [2.0, 2.0], "llama.cpp": [4.0, 4.0], "limit": [1.0, 1.0]})
    assert (result["theirs"]["side"], result["ratio"]) == ("llama.cpp", 0.5)
    assert result["sides"]["limit"]["ratio"] == 2


@pytest.mark.parametrize(("tokens", "count"), [([[1, 2, 3], [1, 2, 3]], 3), ([[1, 2, 3], [1, 5, 3]], 1)])
def test_tokens_agree_up_to_the_first_that_differs(tokens, count):
    assert decode.same(tokens) == count


def test_a_model_that_there_is_not():
    with pytest.raises(ValueError, match="no model 'gpt3'"):
        decode.Race(model="gpt3")
