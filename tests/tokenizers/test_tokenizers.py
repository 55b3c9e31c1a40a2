"""Every kind of tokenizer: round trips, special tokens, and what it says of bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers import BPETokenizer, ByteTokenizer, CharTokenizer, WordTokenizer, load, train

TEXT = "First Citizen:\nBefore we proceed, don't we know 42 things? Größe, naïve 猫🙂\r\n\n   I say 'tis so.\n" * 3
KINDS = {kind: train(kind, TEXT, size) for kind, size in [("char", None), ("byte", None), ("word", None), ("bpe", 300)]}
BYTE_LEVEL = {"byte": KINDS["byte"], "bpe": KINDS["bpe"]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_text_comes_back(kind):
    tokenizer = KINDS[kind]
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32 and ids.ndim == 1 and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.decode(tokenizer.encode("")) == "" and tokenizer.encode("").dtype == np.int32
    assert list(tokenizer.tokens) == sorted(tokenizer.tokens)


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@settings(deadline=None)
@given(text=st.text())
def test_byte_level_kinds_round_trip_any_text(kind, text):
    assert BYTE_LEVEL[kind].decode(BYTE_LEVEL[kind].encode(text)) == text


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@settings(deadline=None)
@given(data=st.binary())
def test_byte_level_kinds_round_trip_any_bytes(kind, data):
    assert BYTE_LEVEL[kind].decode_bytes(BYTE_LEVEL[kind].encode_bytes(data)) == data


@settings(deadline=None)
@given(text=st.text(alphabet=sorted(set(TEXT))))
def test_char_round_trips_text_of_known_characters(text):
    ids = KINDS["char"].encode(text)
    assert len(ids) == len(text) and KINDS["char"].decode(ids) == text


@settings(deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_word_joins_to_the_text_that_it_was_trained_on(text):
    if text:
        tokenizer = WordTokenizer.train(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_char_ids_follow_the_code_points():
    assert CharTokenizer.train("hello\n").encode("\nehlo").tolist() == [0, 1, 2, 3, 4]


def test_byte_ids_are_the_bytes():
    assert ByteTokenizer().encode("a\x00é").tolist() == [97, 0, 0xC3, 0xA9]


def test_word_ids_go_to_the_most_frequent_and_the_rest_is_unknown():
    tokenizer = WordTokenizer.train("the cat, the dog, the end", vocab_size=7)
    assert tokenizer.vocab_size == 7
    assert tokenizer.decode(range(7)) == "[BOS][EOS][PAD][UNK] the,"
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the [UNK]"


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_special_tokens_come_only_when_asked_for(kind):
    tokenizer = KINDS[kind]
    for name, i in tokenizer.special_tokens.items():
        text = f"we{name}know"
        plain, asked = tokenizer.encode(text), tokenizer.encode(text, allow_special=True)
        assert name == "[UNK]" or i not in plain
        assert asked.tolist() == [*tokenizer.encode("we"), i, *tokenizer.encode("know")]
        assert tokenizer.decode(asked) == text
    if kind == "bpe":
        assert tokenizer.decode(tokenizer.encode("a<|endoftext|>b")) == "a<|endoftext|>b"


def test_of_special_tokens_that_overlap_the_longest_wins():
    tokenizer = BPETokenizer.train("abc", 258, special_tokens=("<|a|>", "<|a|>!"))
    assert tokenizer.encode("<|a|>!<|a|>", allow_special=True).tolist() == [257, 256]


def test_show_makes_every_token_printable():
    tokenizer = load("byte")
    assert tokenizer.show(tokenizer.encode("a \n\\é\x00")) == ["a", " ", "\\n", "\\", "\\xc3", "\\xa9", "\\x00"]


def test_a_partial_character_decodes_to_the_replacement_character():
    assert load("byte").decode([0xC3]) == "\ufffd"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_named_with_its_position(kind, wrong):
    with pytest.raises(UserError, match=f"token {wrong} at position 2 .*decode with"):
        KINDS[kind].decode(np.array([5, 6, wrong, 7]))


def test_a_character_outside_the_vocabulary_is_named_with_its_position():
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) at position 2 .* vocabulary of 2 characters"):
        CharTokenizer.train("ab").encode("baé")


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_a_lone_surrogate_is_named_with_its_position(kind):
    with pytest.raises(UserError, match=r"U\+D83D.* at position 3"):
        KINDS[kind].encode("say\ud83d")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("char", ""), "no text"),
        (("word", ""), "no text"),
        (("bpe", "", 300), "no text"),
        (("char", "a\udc80"), "lone surrogate"),
        (("word", "a\udc80"), "lone surrogate"),
        (("bpe", "a\udc80", 300), "lone surrogate"),
        (("char", "a", 300), "leave vocab_size out"),
        (("byte", "a", 300), "leave vocab_size out"),
        (("word", "a", 4), "leaves no room"),
        (("bpe", "a"), "needs a vocab_size"),
        (("bpe", "a", 256), "too small.* 257"),
        (("bpe", "a", -5), "too small"),
        (("wordpiece", "a"), "choose char, byte, word or bpe"),
    ],
)
def test_training_says_what_is_wrong_with_its_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        train(*arguments)
