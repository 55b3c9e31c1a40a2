"""Text from tokens: whole characters, and never a part of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import UserError, tokenizers
from tinygrad_llm.generation.text import Text


def pieces(tokens, stop=()) -> tuple[list[str], Text]:
    text = Text(tokenizers.load("byte"), stop)
    shown = []
    for token in tokens:
        shown.append(text.add(token))
        if text.stopped:
            break
    return [*shown, text.finish()], text


def test_bytes_wait_for_the_character_that_they_begin():
    shown, text = pieces("é€x".encode())
    assert shown == ["", "é", "", "", "€", "x", ""]
    assert text.text == "é€x"


def test_half_a_character_at_the_end_is_shown_as_such():
    shown, text = pieces("a€".encode()[:-1])
    assert shown == ["a", "", "", "\ufffd"]
    assert text.text == "a\ufffd"


def test_a_stop_string_that_tokens_cut_in_two_is_never_shown():
    shown, text = pieces(b"one END two", ["END"])
    assert shown == ["o", "n", "e", " ", "", "", "", ""]
    assert text.text == "one "
    assert text.stopped


def test_what_only_began_like_a_stop_string_is_shown_after_all():
    shown, text = pieces(b"EN, EEND", ["END"])
    assert "".join(shown) == text.text == "EN, E"
    shown, text = pieces(b"the EN", ["END"])
    assert "".join(shown) == text.text == "the EN"
    assert not text.stopped


def test_nothing_comes_after_the_stop():
    text = Text(tokenizers.load("byte"), ["."])
    assert [text.add(token) for token in b"a.b"] == ["a", "", ""]
    assert text.finish() == ""


@given(st.text("aéb", max_size=30), st.lists(st.text("aéb", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_stop_string_that_is_whole_first(whole, stop):
    """Whatever is written and wherever it stops; the oracle looks at every beginning of the text."""
    shown, text = pieces(whole.encode(), stop)
    expected, stopped = whole, False
    for end in range(len(whole) + 1):
        found = [whole[:end].index(s) for s in stop if s in whole[:end]]
        if found:
            expected, stopped = whole[: min(found)], True
            break
    assert "".join(shown) == text.text == expected
    assert text.stopped == stopped


def test_an_empty_stop_string():
    with pytest.raises(UserError, match="a stop string is empty"):
        Text(tokenizers.load("byte"), [""])
