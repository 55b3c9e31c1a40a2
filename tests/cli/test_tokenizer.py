"""`tinygrad-llm tokenizer`: train, encode, decode, show."""

import io

import pytest

from tinygrad_llm import tokenizers
from tinygrad_llm.cli import main


def test_train_saves_what_the_other_actions_load(capsys, tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "bpe"
    text.write_text("the cat sat on the mat, the rat sat on the cat. " * 20)
    assert main(["tokenizer", "train", "--data", str(text), "--vocab_size", "264", "--out", str(out)]) == 0
    assert "264 tokens learned from 960 characters" in capsys.readouterr().out
    assert main(["tokenizer", "encode", str(out), "the cat"]) == 0
    ids = capsys.readouterr().out
    assert list(map(int, ids.split())) == tokenizers.load(out).encode("the cat").tolist()
    assert len(ids.split()) < 7
    assert main(["tokenizer", "decode", str(out), ids]) == 0
    assert capsys.readouterr().out == "the cat\n"
    assert main(["tokenizer", "show", str(out), "the cat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line[9:] for line in lines) == "the cat"


def test_text_comes_from_standard_input_as_well(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("é"))
    assert main(["tokenizer", "encode", "byte"]) == 0
    assert capsys.readouterr().out == "195 169\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["traim"], "no action 'traim'"),
        (["train", "--data", "nowhere.txt"], "nowhere.txt"),
        (["decode", "byte", "1 two"], "token ids are whole numbers"),
        (["decode", "byte", "256"], "256"),
        (["encode", "nowhere"], "nowhere"),
        (["encode"], "tokenizer"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, arguments, message):
    assert main(["tokenizer", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
