"""tinygrad-llm compare: folders of weights, ours and as transformers opens them."""

import pytest

from tinygrad_llm import manual_seed
from tinygrad_llm.cli import main
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizers import ByteTokenizer


def gpt(bias: bool = True) -> GPT:
    manual_seed(3)
    return GPT(GPTConfig(vocab_size=300, block_size=16, n_layer=2, n_head=2, n_embd=16, bias=bias))


@pytest.fixture
def out(tmp_path) -> list[str]:
    return ["--out", str(tmp_path / "out"), "--text", "to be or not"]


def test_two_folders(tmp_path, capsys, out):
    model = gpt()
    save_pretrained(model, tmp_path / "a", ByteTokenizer())
    model.h[0].ln_1.weight.data[3] += 1
    save_pretrained(model, tmp_path / "b", ByteTokenizer())
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a"), "--transformers", "true", *out]) == 0
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *out]) == 1
    assert "h.0.ln_1.weight differs in 1 of 16 rows" in capsys.readouterr().out
    assert (tmp_path / "out" / "operation.npz").is_file()


def test_biases_that_only_transformers_has_are_not_trained(tmp_path, capsys, out):
    folder = tmp_path / "a"
    save_pretrained(gpt(bias=False), folder, ByteTokenizer())
    assert main(["compare", str(folder), str(folder), "--transformers", "true", "--steps", "2", *out]) == 0
    said = capsys.readouterr().out
    assert "ours has no h.0.ln_1.bias, theirs has, but of zeros" in said
    assert "Nor after any of 2 training steps, with what only one of them has left as it is." in said
