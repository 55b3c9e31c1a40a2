"""`tinygrad-llm convert`: what comes out of one format goes into another, and back unchanged."""

import numpy as np
import pytest
import transformers

from tinygrad_llm import tokenizers
from tinygrad_llm.cli import main
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.gguf import read
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig

TEXT = "the cat sat on the mat, the rat sat on the cat. " * 20


@pytest.fixture
def folder(tmp_path):
    """A Llama in Hugging Face's format, with a tokenizer."""
    model = Llama(LlamaConfig(270, 16, 2, 2, 1, 32, 64, tie_weights=True))
    save_pretrained(model, tmp_path / "llama", tokenizers.train("bpe", TEXT, 270))
    return tmp_path / "llama"


def convert(*arguments) -> int:
    return main(["convert", *map(str, arguments)])


def test_there_and_back_again(folder, tmp_path, capsys):
    assert convert(folder, tmp_path / "m.gguf") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{tmp_path / 'm.gguf'}: Llama, 2 layers, 2 heads, 32 wide, 270 tokens, context 16"
    assert "20 tensors: 20 F32" in out
    assert convert(tmp_path / "m.gguf", tmp_path / "again") == 0
    assert "model.safetensors: " in capsys.readouterr().out
    before, after = load_model(folder), load_model(tmp_path / "again")
    assert after.config == before.config
    for name, x in before.state_dict().items():
        np.testing.assert_array_equal(after.state_dict()[name], x, err_msg=name)
    ids = tokenizers.load(folder).encode(TEXT)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again").encode(TEXT) == ids.tolist()


def test_types(folder, tmp_path, capsys):
    assert convert(folder, tmp_path / "m.gguf", "--type", "Q8_0") == 0
    assert "15 Q8_0, 5 F32" in capsys.readouterr().out
    assert convert(tmp_path / "m.gguf", tmp_path / "same.gguf") == 0
    first, second = (read(tmp_path / name).tensors["blk.0.ffn_up.weight"] for name in ("m.gguf", "same.gguf"))
    assert second.type == "Q8_0" and np.array_equal(second.blocks, first.blocks)


def test_what_llama_cpp_makes_otherwise_is_said(tmp_path, capsys):
    config = GPTConfig(vocab_size=40, block_size=16, n_layer=1, n_head=2, n_embd=32, activation="gelu")
    save_pretrained(GPT(config), tmp_path / "gpt", tokenizers.train("char", TEXT))
    assert convert(tmp_path / "gpt", tmp_path / "m.gguf") == 0
    out = capsys.readouterr().out
    assert "without a vocabulary" in out and "approximation of GELU" in out
    assert tokenizers.load(tmp_path / "m.gguf").decode(tokenizers.load(tmp_path / "gpt").encode("the cat")) == "the cat"


def test_a_model_without_a_tokenizer_is_converted(tmp_path, capsys):
    save_pretrained(GPT(GPTConfig(40, 16, 1, 2, 32)), tmp_path / "gpt")
    assert convert(tmp_path / "gpt", tmp_path / "m.gguf") == 0
    assert "going on without a tokenizer: there is no tokenizer at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "m.gguf"], "there is no model at nowhere"),
        (["llama", "m.gguf", "--type", "Q4_K"], "type is 'Q4_K', but must be F32 or F16"),
        (["llama", "out", "--type", "Q8_0"], "types are for .gguf files, and out is not called one"),
        (["llama", "llama"], "llama cannot be written while it is read"),
        (["llama", "folder.gguf"], "folder.gguf is a folder already"),
        (["llama", "file"], "file is a file already"),
    ],
)
def test_mistakes_are_one_line(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "folder.gguf").mkdir()
    (folder.parent / "file").write_text("")
    assert convert(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
