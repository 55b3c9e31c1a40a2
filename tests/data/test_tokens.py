"""Token files: what was written is what is read; a stale, damaged or foreign file never is."""

from pathlib import Path

import numpy as np
import pytest

from tinygrad_llm.data.sources import read_text
from tinygrad_llm.data.tokens import encode_to_file, open_tokens, prepare
from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers.char import CharTokenizer


class Letters:
    """Ids by the place in an alphabet, `shift` further on; `encoded` keeps the texts that it was given."""

    def __init__(self, alphabet, shift=0, vocab_size=None):
        self.alphabet, self.shift, self.vocab_size = alphabet, shift, vocab_size or len(alphabet)
        self.encoded = []

    def encode(self, text):
        self.encoded.append(text)
        return np.array([self.alphabet.index(letter) + self.shift for letter in text], np.int32)

    def decode(self, ids):
        return "".join(self.alphabet[i - self.shift] for i in ids)

    def save(self, folder):
        Path(folder, "alphabet.txt").write_text(self.alphabet)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcdefghij" * 2000)
    return path


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_what_was_written_is_what_is_read(tmp_path, vocab_size, dtype):
    highest = Letters("ab", shift=vocab_size - 2, vocab_size=vocab_size)
    tokens = encode_to_file("abba", highest, tmp_path / "t.npy")
    assert isinstance(tokens, np.memmap) and not tokens.flags.writeable and tokens.dtype == dtype
    assert highest.decode(tokens) == "abba"
    assert np.array_equal(np.load(tmp_path / "t.npy"), tokens)  # any NumPy reads it


def test_an_id_is_never_wrapped_into_the_vocabulary(tmp_path):
    for shift in (2**16, -1):
        with pytest.raises(UserError, match=r"token .* at position 0 is outside the vocabulary of 3"):
            encode_to_file("abc", Letters("abc", shift), tmp_path / "t.npy")
    assert not list(tmp_path.glob("*.npy"))


def test_a_token_outside_the_vocabulary_is_named_with_its_position(tmp_path):
    encode_to_file("abcab", Letters("abc"), tmp_path / "t.npy")
    with pytest.raises(UserError, match=r"t\.npy: token 2 at position 2 is outside the vocabulary of 2"):
        open_tokens(tmp_path / "t.npy", vocab_size=2)


def test_no_truncated_token_file_is_opened(tmp_path):
    encode_to_file("abc", Letters("abc"), tmp_path / "t.npy")
    whole = (tmp_path / "t.npy").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "t.npy").write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated"):
            open_tokens(tmp_path / "t.npy", 3)


@pytest.mark.filterwarnings("ignore")  # NumPy's own, about a damaged header
def test_a_damaged_header_is_one_clear_error_or_harmless(tmp_path):
    encode_to_file("abc" * 50, Letters("abc"), tmp_path / "t.npy")
    whole = (tmp_path / "t.npy").read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.integers(128)] = rng.integers(256)
        (tmp_path / "t.npy").write_bytes(damaged)
        try:
            assert open_tokens(tmp_path / "t.npy", 3).max() < 3
        except UserError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.uint16), np.zeros(3), np.arange(3), np.array([None])])
def test_a_foreign_array_is_refused(tmp_path, array):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(UserError, match=r"t\.npy"):
        open_tokens(tmp_path / "t.npy", 3)


def test_a_missing_token_file(tmp_path):
    with pytest.raises(UserError, match=r"no token file at .*t\.npy"):
        open_tokens(tmp_path / "t.npy", 3)


def test_the_split_is_nanogpts(data_dir):
    text = read_text("shakespeare")
    tokenizer = CharTokenizer.train(text)
    train, val = prepare("shakespeare", tokenizer)
    assert (len(train), len(val)) == (1_003_854, 111_540)  # as nanoGPT's prepare.py prints
    assert tokenizer.decode(train) + tokenizer.decode(val) == text


def test_a_second_run_encodes_no_more_than_a_sample(source):
    first, second = Letters("abcdefghij"), Letters("abcdefghij")
    train, val = prepare(source, first)
    again = prepare(source, second)
    assert np.array_equal(again[0], train) and np.array_equal(again[1], val)
    assert read_text(source)[:18_000] in first.encoded
    assert max(map(len, second.encoded)) < 18_000


def test_another_text_tokenizer_or_fraction_never_meets_a_stale_cache(source):
    prepare(source, Letters("abcdefghij"))
    for letters in (
        Letters("abcdefghijk"),  # another vocabulary, though the same ids
        Letters("jihgfedcba"),  # other ids
        Letters("abcdefghij", shift=1, vocab_size=11),  # saved alike, but its code does something else
    ):
        train, val = prepare(source, letters)
        assert letters.decode(train) + letters.decode(val) == read_text(source)
        assert len(letters.encoded) == 4  # a sample and the whole, of each part
    letters = Letters("abcdefghij")
    assert len(prepare(source, letters, 0.25)[1]) == 5000
    source.write_text("abcdefghij" * 1700 + "j" * 3000)  # begins the same, is as long
    train, val = prepare(source, letters)
    assert letters.decode(train) + letters.decode(val) == read_text(source)


@pytest.mark.parametrize("damage", ["altered", "truncated", "unchecked"])
def test_a_damaged_cache_is_encoded_again(source, cache, damage):
    expected = [part.copy() for part in prepare(source, Letters("abcdefghij"))]
    for path in cache.rglob("*.npy"):
        whole = path.read_bytes()
        if damage == "altered":
            path.write_bytes(whole[:-2] + b"\0\0")  # a token of the vocabulary, but not the text's
        elif damage == "truncated":
            path.write_bytes(whole[:-2])
        else:
            path.with_suffix(".sha256").unlink()
    for part, tokens in zip(expected, prepare(source, Letters("abcdefghij")), strict=True):
        assert np.array_equal(part, tokens)


def test_a_killed_run_leaves_no_half_written_cache(source, cache):
    class Killed(Letters):
        def encode(self, text):
            if len(text) > 10_000:
                raise KeyboardInterrupt
            return super().encode(text)

    with pytest.raises(KeyboardInterrupt):
        prepare(source, Killed("abcdefghij"))
    assert not cache.exists() or not list(cache.rglob("*"))


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, float("nan")])
def test_a_fraction_out_of_range(source, val_fraction):
    with pytest.raises(UserError, match="val_fraction must lie between 0 and 1"):
        prepare(source, Letters("abcdefghij"), val_fraction)
