"""SentencePiece models against the library itself, and what transformers makes of the folders that we save."""

import io
import json

import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from published import CHATML, HARD, TEXT, hard_texts
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers import load
from tinygrad_llm.tokenizers.huggingface import HuggingFaceTokenizer
from tinygrad_llm.tokenizers.sentencepiece import SentencePieceTokenizer

CONTROLS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
KINDS = {
    "llama": {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no prefix": {"model_type": "bpe", "normalization_rule_name": "identity", "add_dummy_prefix": False},
    "unigram": {"model_type": "unigram", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "nfkc": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc", "byte_fallback": False},
}


def model(kind: str) -> bytes:
    written = io.BytesIO()
    options = {"byte_fallback": True, "remove_extra_whitespaces": kind == "nfkc"} | KINDS[kind]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=written,
        vocab_size=390 if options["byte_fallback"] else 120,
        user_defined_symbols=["<think>"],
        control_symbols=["<|im_start|>", "<|im_end|>"],
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return written.getvalue()


@pytest.fixture(scope="module", params=KINDS)
def published(request, tmp_path_factory):
    """A kind, its folder, the library, and what we read."""
    folder, data = tmp_path_factory.mktemp("model"), model(request.param)
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "chat_template.jinja").write_text(CHATML)
    return request.param, folder, sentencepiece.SentencePieceProcessor(model_proto=data), load(folder)


@settings(deadline=None, max_examples=40)
@given(text=hard_texts)
def test_ids_and_text_are_those_of_the_library(published, text):
    kind, _, oracle, ours = published
    ids = ours.encode(text).tolist()
    assert ids == oracle.encode(text) and not set(ids) & {ours.special_tokens[name] for name in CONTROLS}
    if kind != "nfkc":
        assert ours.decode(ids) == text.replace("▁", " ")
        prefix = b" " if text and kind != "no prefix" else b""
        assert b"".join(ours.decode_bytes([i]) for i in ids) == prefix + text.replace("▁", " ").encode()


def test_real_text(published, data_dir):
    _, _, oracle, ours = published
    text = (data_dir / "the-verdict" / "the-verdict.txt").read_text("utf-8")
    assert ours.encode(text).tolist() == oracle.encode(text)


def test_special_tokens_and_the_space_behind_them(published):
    kind, folder, oracle, ours = published
    start, end = ours.special_tokens["<s>"], ours.special_tokens["</s>"]
    assert (ours.bos_id, ours.eos_ids) == (start, {end}) and ours.vocab_size == oracle.get_piece_size()
    proto = ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False
    bare = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    text = "<s>hi <think> you</s>\nhi"
    expected = [start, *bare.encode("hi <think> you"), end, *bare.encode("\nhi")]
    assert ours.encode(text, allow_special=True).tolist() == expected
    legacy = SentencePieceTokenizer((folder / "tokenizer.model").read_bytes(), legacy=True)
    expected = [start, *oracle.encode("hi <think> you"), end, *oracle.encode("\nhi")]
    assert legacy.encode(text, allow_special=True).tolist() == expected
    if kind != "nfkc":
        assert ours.decode(ours.encode(text, allow_special=True)) == text


def test_a_saved_copy_opens_in_transformers(published, tmp_path):
    kind, folder, _, ours = published
    ours.save(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    auto, copy = transformers.AutoTokenizer.from_pretrained(tmp_path), load(tmp_path)
    assert type(copy) is HuggingFaceTokenizer
    for text in [*HARD, TEXT, "", "a", "a\n b"]:
        if text == "<think>":
            continue  # the library puts a space before it, transformers none
        ids = ours.encode(text).tolist()
        assert copy.encode(text).tolist() == ids
        if not any(name in text for name in [*CONTROLS, "<unk>"]):  # which transformers finds in any text for a unigram
            assert auto(text, split_special_tokens=True)["input_ids"] == [ours.bos_id, *ids]
        assert copy.decode(ids) == ours.decode(ids) or kind == "nfkc"
    messages = [{"role": "user", "content": "Hello  there"}]
    theirs = auto.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.apply_chat_template(messages) == theirs == copy.apply_chat_template(messages)
    assert (copy.roles, copy.eos_ids, copy.bos_id) == (ours.roles, ours.eos_ids, ours.bos_id)


def test_transformers_reads_the_published_model_as_we_save_it(published, tmp_path):
    """Text that begins with a space gets no second one there, which is the only difference."""
    kind, folder, oracle, ours = published
    if kind == "llama":
        (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        ours.save(tmp_path / "saved")
        saved = load(tmp_path / "saved")
        for text in [*HARD[:-2], " a", "   a"]:
            ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert saved.encode(text).tolist() == ids
            assert ids == oracle.encode(text.removeprefix(" "))


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_damaged_model_is_one_clear_error(published, data):
    _, folder, _, _ = published
    whole = (folder / "tokenizer.model").read_bytes()
    file = folder / "damaged.model"
    cut = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[cut] ^= data.draw(st.integers(1, 255))
    for damaged in [whole[:cut], bytes(altered)]:
        file.write_bytes(damaged)
        try:
            load(file).encode("a b")
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert damaged != whole[:cut] or cut > len(whole) * 0.9  # settings of the training stand at the end
