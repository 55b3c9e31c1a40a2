"""Byte-pair encoding against Hugging Face's trainer and encoder, and against counting all pairs every time."""

import json
import time
import zipfile
from collections import Counter
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers import BPETokenizer
from tinygrad_llm.tokenizers.bpe import learn_merges, merge
from tinygrad_llm.tokenizers.byte import ALPHABET


@pytest.fixture(scope="module")
def shakespeare(data_dir):
    return (data_dir / "tinyshakespeare" / "input.txt").read_text("utf-8")


def spelled_merges(tokenizer):
    return [tuple(tokenizer._spell(token) for token in pair) for pair in tokenizer.merges]


def huggingface_merges(text, n_merges):
    oracle = tokenizers.Tokenizer(models.BPE())
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + n_merges, initial_alphabet=alphabet, show_progress=False)
    oracle.train_from_iterator([text], trainer)
    return [tuple(pair) for pair in json.loads(oracle.to_str())["model"]["merges"]]


def test_a_megabyte_to_1024_tokens_in_seconds_with_the_merges_of_huggingface(shakespeare):
    start = time.perf_counter()
    tokenizer = BPETokenizer.train(shakespeare, 1024)
    assert time.perf_counter() - start < 30  # 2 s on two cores; a trainer that recounts every pair needs minutes
    assert tokenizer.vocab_size == 1024 and tokenizer.special_tokens == {"<|endoftext|>": 1023}
    assert spelled_merges(tokenizer) == huggingface_merges(shakespeare, 767)
    assert tokenizer.decode(tokenizer.encode(shakespeare)) == shakespeare


def test_every_merge_of_a_large_vocabulary_is_that_of_huggingface(data_dir):
    """Down to pairs that occur a few times only, of which hundreds tie."""
    text = (data_dir / "wikitext-2" / "valid.txt").read_text("utf-8")
    assert spelled_merges(BPETokenizer.train(text, 8192)) == huggingface_merges(text, 8192 - 257)


@pytest.mark.slow
def test_ten_megabytes_to_8192_tokens_within_a_minute(data_dir):
    """WikiText-2's validation and test text, Tiny Shakespeare, The Verdict, LAMBADA and BLiMP's sentences."""
    names = ["wikitext-2/valid.txt", "wikitext-2/test.txt", "tinyshakespeare/input.txt", "the-verdict/the-verdict.txt"]
    parts = [(data_dir / name).read_text("utf-8") for name in names]
    lambada = (data_dir / "lambada" / "lambada_test.jsonl").read_text("utf-8").splitlines()
    parts += [json.loads(line)["text"] for line in lambada]
    with zipfile.ZipFile(data_dir / "blimp" / "BLiMP.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".jsonl") and "MACOSX" not in name):
            rows = [json.loads(line) for line in archive.read(name).decode().splitlines()]
            parts += [f"{row['sentence_good']}\n{row['sentence_bad']}" for row in rows]
    text = "\n".join(parts).encode()[:10_000_000].decode("utf-8", "ignore")
    assert len(text.encode()) > 9_999_990
    start = time.perf_counter()
    tokenizer = BPETokenizer.train(text, 8192)
    assert time.perf_counter() - start < 60  # 6 s on two cores, where Hugging Face's trainer in Rust takes 5 s
    assert spelled_merges(tokenizer) == huggingface_merges(text, 8192 - 257)


@settings(deadline=None)
@given(words=st.dictionaries(st.text(alphabet="ab", max_size=25).map(str.encode), st.integers(1, 5), max_size=8))
def test_no_token_is_made_twice(words):
    tokens = [bytes([b]) for b in ALPHABET]
    for left, right in learn_merges(words, 60):
        tokens.append(tokens[left] + tokens[right])
    assert len(set(tokens)) == len(tokens)


@settings(deadline=None)
@given(text=st.text(alphabet="ab é'\n1", min_size=1, max_size=200))
def test_ties_runs_and_overlaps_merge_as_huggingface_does(text):
    assert spelled_merges(BPETokenizer.train(text, 257 + 20)) == huggingface_merges(text, 20)


@settings(deadline=None)
@given(words=st.dictionaries(st.binary(max_size=12).map(lambda data: bytes(b % 3 for b in data)), st.integers(1, 5)))
def test_the_index_of_pairs_changes_nothing(words):
    """The lesson's short form: count all pairs again after every merge."""
    spelled = {word: [ALPHABET.index(b) for b in word] for word in words}
    merges = []
    for new in range(256, 256 + 15):
        counts = Counter()
        for word, count in words.items():
            for pair in pairwise(spelled[word]):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = {word: merge(ids, best, new) for word, ids in spelled.items()}
    assert learn_merges(words, 15) == merges


def test_text_with_too_few_pairs_gives_a_smaller_vocabulary():
    tokenizer = BPETokenizer.train("abab", 1000)
    assert tokenizer.merges == [(b"a", b"b"), (b"ab", b"ab")]
    assert tokenizer.vocab_size == 259


def test_bytes_that_are_not_utf8_are_not_learned_from():
    learned = BPETokenizer.train(b"\xff\xff\xff\xfeabab\xff\xff", 1000)
    assert learned.merges == [(b"a", b"b"), (b"ab", b"ab")]
    assert learned.encode_bytes(b"\xffabab\xff\xfe").size == 4


def test_a_long_run_of_spaces_comes_back():
    tokenizer = BPETokenizer.train("a  b", 260)
    text = "a" + " " * 1_500_000 + "b"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_special_token_cannot_be_ordinary_text():
    with pytest.raises(UserError, match="the special token b'ab'"):
        BPETokenizer.train("abab", 259, special_tokens=("ab",))
