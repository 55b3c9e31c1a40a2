"""Files and names: what we save opens in Hugging Face's libraries with the same ids, and comes back here."""

import json
import shutil

import numpy as np
import pytest
import tiktoken
import tokenizers
import transformers

from tinygrad_llm import hub
from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers import BPETokenizer, ByteTokenizer, load, train
from tinygrad_llm.tokenizers.bpe import GPT2_PATTERN
from tinygrad_llm.tokenizers.description import split
from tinygrad_llm.tokenizers.pretrained import _oniguruma

TEXT = "It's 1234567 o'clock!\r\n\n   We'LL say \"naïve\"  — Größe 猫🙂\t\x00 x_1\u00a0\n <|endoftext|> \n  \n"
KINDS = [("char", None), ("byte", None), ("word", None), ("bpe", 300)]
# tiktoken's pattern for cl100k_base: what Oniguruma would read otherwise is all in it
CL100K_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)


@pytest.fixture(scope="module")
def gpt2(data_dir):
    return load("gpt2")


@pytest.mark.parametrize(("kind", "vocab_size"), KINDS)
def test_a_saved_tokenizer_opens_here_and_in_huggingface(kind, vocab_size, tmp_path):
    tokenizer = train(kind, TEXT, vocab_size)
    tokenizer.save(tmp_path)
    again = load(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.tokens == tokenizer.tokens and again.special_tokens == tokenizer.special_tokens
    ids = tokenizer.encode(TEXT)
    np.testing.assert_array_equal(load(tmp_path / "tokenizer.json").encode(TEXT), ids)

    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    oracle.encode_special_tokens = True
    assert oracle.get_vocab_size() == tokenizer.vocab_size
    assert oracle.encode(TEXT).ids == ids.tolist()
    assert oracle.decode(ids.tolist(), skip_special_tokens=False) == TEXT
    oracle.encode_special_tokens = False
    assert oracle.encode(TEXT).ids == tokenizer.encode(TEXT, allow_special=True).tolist()

    # as in a checkpoint, where the model's configuration stands beside it
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto(TEXT, split_special_tokens=True)["input_ids"] == ids.tolist()
    assert auto.decode(ids.tolist()) == TEXT
    assert auto.eos_token == {"word": "[EOS]", "bpe": "<|endoftext|>"}.get(kind)


@pytest.mark.parametrize(("kind", "vocab_size"), KINDS)
def test_saving_what_was_loaded_writes_the_same_file(kind, vocab_size, tmp_path):
    train(kind, TEXT, vocab_size).save(tmp_path / "a")
    load(tmp_path / "a").save(tmp_path / "b")
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_an_unknown_character_is_an_error_in_huggingface_too(tmp_path):
    train("char", "ab").save(tmp_path)
    with pytest.raises(Exception, match="Missing"):
        tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("abc")


def test_gpt2_is_gpt2(gpt2, data_dir):
    folder = data_dir / "gpt2-bpe"
    vocab, merges = json.loads((folder / "encoder.json").read_text("utf-8")), (folder / "vocab.bpe").read_text("utf-8")
    pairs = [tuple(line.split()) for line in merges.splitlines()[1:]]
    oracle = transformers.GPT2Tokenizer(vocab=vocab, merges=pairs)
    shakespeare = (data_dir / "tinyshakespeare" / "input.txt").read_text("utf-8")[:20000]
    for text in [TEXT, shakespeare, "a<|endoftext|>b", "<|endoftext|>", " ", "\n\n\n", ""]:
        expected = oracle(text, split_special_tokens=True)["input_ids"]
        assert gpt2.encode(text).tolist() == expected
        assert gpt2.encode(text, allow_special=True).tolist() == oracle(text)["input_ids"]
        assert gpt2.decode(expected) == text
    assert gpt2.vocab_size == 50257 and gpt2.special_tokens == {"<|endoftext|>": 50256}
    assert gpt2.encode("Hello, I'm a language model,").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]


def test_gpt2s_merges_are_found_again_from_its_ids(gpt2, data_dir, tmp_path):
    published = (data_dir / "gpt2-bpe" / "vocab.bpe").read_text("utf-8").splitlines()[1:]
    gpt2.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]["merges"] == published
    np.testing.assert_array_equal(load(tmp_path).encode(TEXT), gpt2.encode(TEXT))


@pytest.mark.parametrize("style", ["pairs", "ByteLevel defaults"])
def test_files_that_huggingface_wrote_are_read(gpt2, style, tmp_path):
    gpt2.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    if style == "pairs":
        oracle = tokenizers.Tokenizer.from_file(str(file))
        oracle.save(str(file))  # today's library writes a merge as a pair
        assert isinstance(json.loads(file.read_text("utf-8"))["model"]["merges"][0], list)
    else:
        data = json.loads(file.read_text("utf-8"))
        del data["pre_tokenizer"]["use_regex"]  # as older files have it
        file.write_text(json.dumps(data))
    np.testing.assert_array_equal(load(file).encode(TEXT), gpt2.encode(TEXT))


def test_another_published_encoding_saves_for_huggingface(gpt2, monkeypatch, tmp_path):
    """A small stand-in for cl100k_base, with its pattern and a gap below the special tokens."""
    ours = BPETokenizer.train(TEXT * 2, 300, special_tokens=())
    ranks = {token: i for i, token in ours.tokens.items()}
    special = {"<|endoftext|>": 301, "<|fim_prefix|>": 305}
    published = tiktoken.Encoding("x", pat_str=CL100K_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: published)
    loaded = load("cl100k_base")
    loaded.save(tmp_path)
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    oracle.encode_special_tokens = True
    assert loaded.vocab_size == 306
    for text in [TEXT, "1234567 12\n  \n x   ", "x  \n", "  ", TEXT.upper(), "\n\n  it'S\r\n!!\n\n"]:
        expected = published.encode_ordinary(text)
        assert loaded.encode(text).tolist() == load(tmp_path).encode(text).tolist() == expected
        assert oracle.encode(text).ids == expected
    assert [oracle.token_to_id(name) for name in special] == [301, 305]


def test_gpt2s_pattern_stands_for_tiktokens_newer_one(gpt2):
    newer = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    other = BPETokenizer(gpt2._vocab, gpt2.special_tokens, _oniguruma(newer))
    for text in [TEXT, TEXT + "  ", TEXT + "\n", "\n \n", " a"]:
        np.testing.assert_array_equal(other.encode(text), gpt2.encode(text))


def test_names_and_what_to_do_without_a_network(monkeypatch, tmp_path):
    assert type(load("byte")) is ByteTokenizer

    def offline(name):
        raise ConnectionError("no route")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    monkeypatch.setenv("TINYGRAD_LLM_DATA", str(tmp_path))  # which does not hold GPT-2's files
    for name in ["gpt2", "o200k_base"]:
        with pytest.raises(UserError, match=rf"cannot download the vocabulary of {name} .*TIKTOKEN_CACHE_DIR"):
            load(name)
    with pytest.raises(UserError, match=r"no tokenizer at nobody: give .* byte, gpt2"):
        load("nobody")
    with pytest.raises(UserError, match=rf"no tokenizer at {tmp_path}: give a folder with tokenizer.json, "):
        load(tmp_path)


def test_openais_folder_a_run_and_a_name_on_the_hub(gpt2, data_dir, monkeypatch, tmp_path):
    for name in ["encoder.json", "vocab.bpe"]:
        shutil.copyfile(data_dir / "gpt2-bpe" / name, tmp_path / name)
    (tmp_path / "hparams.json").write_text("{}")
    monkeypatch.setattr(tiktoken, "get_encoding", None)  # no network
    monkeypatch.delenv("TINYGRAD_LLM_DATA")
    ours = load(tmp_path)
    np.testing.assert_array_equal(ours.encode(TEXT), gpt2.encode(TEXT))
    assert type(ours) is BPETokenizer and ours.eos_ids == {50256} and ours.bos_id is None

    monkeypatch.setattr(hub, "locate", lambda source: tmp_path if source == "openai/gpt2" else source)
    np.testing.assert_array_equal(load("openai/gpt2").encode(TEXT), gpt2.encode(TEXT))

    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step-1"
    train("char", "abc").save(checkpoint)
    (run / "metrics.jsonl").write_text("")
    monkeypatch.setattr("tinygrad_llm.training.checkpoint.verify", lambda folder: None)
    monkeypatch.setattr(hub, "locate", lambda source: source)
    assert load(run).encode("cab").tolist() == [2, 0, 1]


def test_local_gpt2_files_that_are_cut_short(data_dir, monkeypatch, tmp_path):
    folder = tmp_path / "gpt2-bpe"
    folder.mkdir()
    monkeypatch.setenv("TINYGRAD_LLM_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot read .*encoder\.json"):
        load("gpt2")
    for name in ["encoder.json", "vocab.bpe"]:
        shutil.copyfile(data_dir / "gpt2-bpe" / name, folder / name)
    text = (folder / "vocab.bpe").read_text("utf-8")
    (folder / "vocab.bpe").write_text(text[:-20000], "utf-8")
    with pytest.raises(UserError, match="gpt2-bpe"):
        load("gpt2")
    (folder / "vocab.bpe").write_text("\n".join(text.splitlines()[:-100]), "utf-8")
    with pytest.raises(UserError, match=r"vocab\.bpe does not make the tokens of .*encoder\.json"):
        load("gpt2")
    (folder / "encoder.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="is not whole"):
        load("gpt2")


def test_a_file_cut_anywhere_is_one_clear_error(tmp_path):
    train("bpe", TEXT, 280).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    whole = file.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"tokenizer\.json is not") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("bpe", ["model", "type"], "WordPiece", "not a tokenizer that can be used"),
        ("bpe", ["normalizer"], {"type": "NFK"}, "not a tokenizer that can be used"),
        ("bpe", ["pre_tokenizer"], split("("), "unmatched parenthesis"),
        ("bpe", ["model", "vocab"], [], "AttributeError"),
        ("bpe", ["model", "vocab", "!"], 1, "not distinct"),
        ("bpe", ["model", "vocab", "!"], -1, "not distinct"),
        ("bpe", ["model", "vocab", "!"], 0.5, "not distinct"),
        ("bpe", ["model", "merges"], ["a"], "ValueError"),
        ("bpe", ["pre_tokenizer"], {"type": "Metaspace"}, "missing field `replacement`"),
        ("bpe", ["added_tokens"], None, "TypeError"),
        ("char", ["model", "vocab", "ab"], 99, "TypeError"),
        ("char", ["model", "vocab"], {}, "not distinct"),
        ("word", ["added_tokens"], [], "no entry"),
    ],
)
def test_a_foreign_or_altered_file_is_one_clear_error(kind, key, value, message, tmp_path):
    train(kind, TEXT, 280 if kind == "bpe" else None).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text("utf-8"))
    entry = data
    for name in key[:-1]:
        entry = entry[name]
    entry[key[-1]] = value
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match=rf"tokenizer\.json.*{message}") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_json_that_is_no_tokenizer(tmp_path):
    file = tmp_path / "tokenizer.json"
    for content in ["[]", "3", '{"a": 1}', "[" * 100_000, "\x00", '"text"', "null"]:
        file.write_text(content)
        with pytest.raises(UserError, match=r"tokenizer\.json is not"):
            load(file)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is not"):
        load(file)


def test_the_pattern_of_gpt2_is_written_the_way_its_own_file_has_it(gpt2, tmp_path):
    gpt2.save(tmp_path)
    cut = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["pre_tokenizer"]
    assert cut == {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    assert _oniguruma(GPT2_PATTERN) == GPT2_PATTERN
