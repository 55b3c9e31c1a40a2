"""Any tokenizer.json: ids, text and conversations as transformers has them, and special tokens only when asked for."""

import json
import shutil

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from published import CHATML, HARD, SPECIAL, TEXT, hard_texts, library
from tokenizers import AddedToken

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers import load
from tinygrad_llm.tokenizers.huggingface import HuggingFaceTokenizer

BYTE_LEVEL = ["llama3", "smollm", "qwen2"]
KINDS = [*BYTE_LEVEL, "llama2", "unigram", "wordpiece"]


@pytest.fixture(scope="module", params=KINDS)
def published(request, tmp_path_factory):
    """A kind, the folder that transformers wrote, what transformers reads there, and what we read."""
    folder = tmp_path_factory.mktemp(request.param)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library(request.param),
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="</s>",
        chat_template=CHATML,
    )
    fast.save_pretrained(folder)
    return request.param, folder, transformers.AutoTokenizer.from_pretrained(folder), load(folder)


def expected(auto, text, **options):
    return auto(text, add_special_tokens=False, **options)["input_ids"]


@settings(deadline=None, max_examples=40)
@given(text=hard_texts)
def test_ids_and_text_are_those_of_transformers(published, text):
    kind, _, auto, ours = published
    ids = ours.encode(text)
    assert ids.dtype == np.int32 and not set(ids.tolist()) & {ours.special_tokens[name] for name in SPECIAL}
    if kind != "unigram" or not any(name in text for name in SPECIAL):  # which transformers' finds in any text
        assert ids.tolist() == expected(auto, text, split_special_tokens=True)
    assert ours.decode(ids) == auto.decode(ids.tolist(), clean_up_tokenization_spaces=False)
    data = ours.decode_bytes(ids)
    assert b"".join(ours.decode_bytes([i]) for i in ids) == data
    if kind in BYTE_LEVEL[:2]:
        assert data == text.encode()
    if kind == "llama2":
        assert data.lstrip() == text.replace("▁", " ").encode().lstrip()


@pytest.mark.parametrize("name", ["the-verdict/the-verdict.txt", "tinyshakespeare/input.txt"])
def test_real_text(published, data_dir, name):
    kind, _, auto, ours = published
    text = (data_dir / name).read_text("utf-8")[:50_000]
    ids = ours.encode(text)
    assert ids.tolist() == expected(auto, text)
    assert kind in ("unigram", "wordpiece") or ours.decode(ids) == text


@pytest.mark.parametrize("text", [*HARD, TEXT, "<s>hi</s> hi <|im_end|>\n<|im_start|>", ""])
def test_special_tokens_where_they_are_asked_for(published, text):
    _, _, auto, ours = published
    assert ours.encode(text, allow_special=True).tolist() == expected(auto, text)


def test_what_begins_and_ends_a_text(published):
    kind, _, auto, ours = published
    assert type(ours) is HuggingFaceTokenizer
    assert ours.eos_ids == {auto.eos_token_id}
    assert ours.bos_id == (auto.bos_token_id if kind in ("llama2", "llama3") else None)
    assert ours.roles.items() >= auto.special_tokens_map.items()
    assert ours.vocab_size == len(auto)


def test_conversations_are_those_of_transformers(published):
    _, _, auto, ours = published
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " I say\n it's 12. "}]
    for prompt in (True, False):
        theirs = auto.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
        assert ours.apply_chat_template(messages, prompt) == theirs


@pytest.mark.parametrize("model_type", [None, "llama", "other"])
def test_a_saved_copy_opens_in_transformers(published, model_type, tmp_path):
    kind, _, auto, ours = published
    if model_type == "other":  # beside a Qwen2, transformers puts its own pre-tokenizer in the place of any other
        model_type = "qwen2" if kind == "qwen2" else "gpt2"
    ours.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "eos_token_id": None}))
    again, copy = transformers.AutoTokenizer.from_pretrained(tmp_path), load(tmp_path)
    for text in [*HARD, TEXT]:
        assert again(text)["input_ids"] == auto(text)["input_ids"]
        np.testing.assert_array_equal(copy.encode(text), ours.encode(text))
    assert again.chat_template == copy.chat_template == CHATML and again.eos_token == auto.eos_token
    assert (copy.roles, copy.eos_ids, copy.bos_id) == (ours.roles, ours.eos_ids, ours.bos_id)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_message_never_becomes_a_special_token(published, data):
    _, _, _, ours = published
    pieces = st.sampled_from([*SPECIAL, "<", "<|", "<|im_", "end|>", "|>", "s>", "/s>", "a", "\n", " "])
    contents = data.draw(st.lists(st.lists(pieces, max_size=5).map("".join), min_size=1, max_size=3))
    messages = [{"role": "user", "content": content} for content in contents]
    ours.chat_template = "{% for m in messages %}<s>{{ m.content }}{{ m.content }}{% endfor %}</s>"
    ids = ours.apply_chat_template(messages)
    ours.chat_template = CHATML
    special = [i for i in ids if i in {ours.special_tokens[name] for name in SPECIAL}]
    start, end = ours.special_tokens["<s>"], ours.special_tokens["</s>"]
    assert special == [start] * len(messages) + [end]


def test_tokens_that_swallow_whitespace(tmp_path):
    oracle = library("llama3")
    swallows = [("<|a|>", False, True), ("<|b|>", True, False), ("<|c|>", True, True)]
    oracle.add_special_tokens([AddedToken(n, lstrip=left, rstrip=right) for n, left, right in swallows])
    oracle.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    for text in ["x <|a|> y", "x <|b|> y", " <|c|>\n\n y<|b|>", "<|a|>  <|b|>"]:
        assert ours.encode(text, allow_special=True).tolist() == oracle.encode(text, add_special_tokens=False).ids


def test_a_special_token_that_a_model_finds_in_any_text_is_refused(tmp_path):
    """The merges of this one make its special token: the library itself gives it for plain text."""
    oracle = library("llama3")
    word = next(token for token in oracle.get_vocab() if len(token) > 2 and token.isascii() and token.isalpha())
    oracle.add_special_tokens([word])
    oracle.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    assert ours.encode(word, allow_special=True).tolist() == [oracle.token_to_id(word)]
    with pytest.raises(UserError, match="cannot write but as its special token"):
        ours.encode(word)


def test_settings_beside_the_file(published, tmp_path):
    folder = published[1]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {
        "add_bos_token": True,
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "chat_template": [{"name": "x", "template": "y"}],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3, 10**9]}))
    (tmp_path / "chat_template.jinja").unlink()
    again = load(tmp_path)
    assert again.bos_id == again.special_tokens["<s>"] and again.chat_template is None
    assert again.eos_ids == {again.special_tokens["</s>"], 1, 3}
    again.save(tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto("a")["input_ids"] == [again.bos_id, *again.encode("a")] and load(tmp_path).bos_id == again.bos_id


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"chat_template": [1]}'),
        ("special_tokens_map.json", '{"eos_token": {}}'),
        ("generation_config.json", "{"),
        ("config.json", "\xff"),
        ("chat_template.jinja", "\xff"),
    ],
)
def test_settings_that_are_damaged(name, content, tmp_path):
    library("llama3").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_text(content, "latin-1")
    with pytest.raises(UserError, match=r"json.* is not ") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


JUNK = [None, -1, 1, 2**32, 0.5, "", "a", [], [1], [["a", "b"]], {}, {"a": 1}, "(", "BPE", "ByteLevel"]


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_an_altered_file_is_one_clear_error_or_works(published, data):
    folder = published[1] / "altered"
    folder.mkdir(exist_ok=True)
    description = json.loads((published[1] / "tokenizer.json").read_text())
    entry, key = {"": description}, ""
    while data.draw(st.integers(0, 3)) and isinstance(entry[key], dict | list) and entry[key]:
        entry = entry[key]
        key = data.draw(st.sampled_from(sorted(entry) if isinstance(entry, dict) else range(len(entry))))
    entry[key] = data.draw(st.sampled_from(JUNK))
    (folder / "tokenizer.json").write_text(json.dumps(description))
    try:
        ours = load(folder)
        ours.decode(ours.encode("Hello <s> 12\n naïve"))
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"continuing_subword_prefix": "####"}}, "does not continue a word with '####'"),
        ({"post_processor": {"special_tokens": {}}}, "post_processor uses '<s>', which it does not define"),
    ],
)
def test_what_the_library_crashes_on_is_found_before(change, message, tmp_path):
    description = json.loads(library("llama2").to_str())
    for name, entries in change.items():
        description[name] |= entries
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_the_two_files_of_a_gpt2_from_the_hub(data_dir):
    """A tiny one, which cannot write every byte, and leaves out what it cannot write."""
    folder = data_dir / "tiny-gpt2-hf"
    ours, auto = load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in ["lower newest widest", "low", "l<unk><|endoftext|>", ""]:
        assert ours.encode(text).tolist() == expected(auto, text, split_special_tokens=True)
        assert ours.encode(text, allow_special=True).tolist() == expected(auto, text)
    assert ours.eos_ids == {20} and ours.vocab_size == 21
