"""The vocabulary inside a GGUF file against the tokenizers that it came from, and against llama.cpp where that is."""

import json

import gguf
import numpy as np
import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from published import CHATML, HARD, SPECIAL, hard_texts, library
from test_sentencepiece import model as sentencepiece_model

from tinygrad_llm.errors import UserError
from tinygrad_llm.formats.gguf_reader import read
from tinygrad_llm.tokenizers import load
from tinygrad_llm.tokenizers.gguf import from_metadata
from tinygrad_llm.tokenizers.sentencepiece import ModelProto


def byte_level(kind: str, pre: str) -> dict:
    """The metadata of a byte-level BPE."""
    description = json.loads(library(kind).to_str())
    tokens = {i: token for token, i in description["model"]["vocab"].items()}
    added = {token["id"]: token for token in description["added_tokens"]}
    tokens |= {i: token["content"] for i, token in added.items()}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [tokens[i] for i in range(len(tokens))],
        "tokenizer.ggml.token_type": np.array(
            [1 if i not in added else 3 if added[i]["special"] else 4 for i in range(len(tokens))], np.int32
        ),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in description["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": tokens_id(tokens, "<s>"),
        "tokenizer.ggml.eos_token_id": tokens_id(tokens, "<|im_end|>"),
        "tokenizer.ggml.eot_token_id": tokens_id(tokens, "</s>"),
        "tokenizer.chat_template": CHATML,
    }


def tokens_id(tokens: dict[int, str], name: str) -> int:
    return next(i for i, token in tokens.items() if token == name)


def llama(data: bytes) -> dict:
    """The metadata of a SentencePiece model."""
    pieces = ModelProto.FromString(data).pieces
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.piece for piece in pieces],
        "tokenizer.ggml.scores": np.array([piece.score for piece in pieces], np.float32),
        "tokenizer.ggml.token_type": np.array([piece.type for piece in pieces], np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def written(metadata: dict, path) -> str:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, np.asarray(value).tolist())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(path)


def llama_cpp_ids(path: str):
    """llama.cpp's tokenizer on the file: text and whether names in it are special tokens -> ids."""
    llama_cpp = pytest.importorskip("llama_cpp")
    oracle = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    return lambda text, special=False: oracle.tokenize(text.encode(), add_bos=False, special=special)


@pytest.mark.parametrize(("kind", "pre"), [("smollm", "smollm"), ("llama3", "llama-bpe"), ("qwen2", "qwen2")])
def test_a_byte_level_vocabulary_encodes_as_the_tokenizer_that_it_came_from(kind, pre, tmp_path):
    oracle = library(kind)
    oracle.encode_special_tokens = True
    oracle.normalizer = None  # llama.cpp leaves Qwen2's NFC out
    ours = load(written(byte_level(kind, pre), tmp_path / "vocabulary.gguf"))
    for text in HARD:
        assert ours.encode(text).tolist() == oracle.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text
    special = {name: oracle.token_to_id(name) for name in SPECIAL}
    assert ours.special_tokens == special and ours.vocab_size == oracle.get_vocab_size()
    assert ours.eos_ids == {special["<|im_end|>"], special["</s>"]}
    assert ours.bos_id == (special["<s>"] if pre == "llama-bpe" else None)
    assert ours.roles == {"bos_token": "<s>", "eos_token": "<|im_end|>"} and ours.chat_template == CHATML


def test_a_sentencepiece_vocabulary_encodes_as_the_model_that_it_came_from(tmp_path):
    data = sentencepiece_model("llama")
    oracle = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = load(written(llama(data), tmp_path / "vocabulary.gguf"))
    for text in [*HARD, " a", ""]:
        assert ours.encode(text).tolist() == oracle.encode(text)
    assert (ours.bos_id, ours.eos_ids) == (1, {2}) and ours.roles["unk_token"] == "<unk>"


@pytest.fixture(scope="module")
def smol(smollm2):
    return load(smollm2)


def test_smollm2_has_the_tokens_and_the_template_that_it_was_published_with(smol, tmp_path):
    assert smol.vocab_size == 49152 and smol.bos_id is None and smol.eos_ids == {2}
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = smol.apply_chat_template(messages)
    assert smol.decode(ids) == text and ids[:3] == [1, 9690, 198]
    smol.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == ids
    for text in HARD:
        assert auto(text, split_special_tokens=True)["input_ids"] == smol.encode(text).tolist()


def test_smollm2_against_llama_cpp_on_hard_and_real_text(smol, smollm2, data_dir):
    theirs = llama_cpp_ids(str(smollm2))
    known = {token[0] for token in smol.tokens.values() if len(token) == 1}  # both drop other bytes, at another time

    @settings(deadline=None, max_examples=100)
    @given(text=hard_texts.filter(lambda text: known.issuperset(text.encode())))
    def agrees(text):
        assert smol.encode(text).tolist() == theirs(text)
        assert smol.encode(text, allow_special=True).tolist() == theirs(text, special=True)

    agrees()
    for name in ["the-verdict/the-verdict.txt", "tinyshakespeare/input.txt"]:
        text = (data_dir / name).read_text("utf-8")[:200_000]
        assert smol.encode(text).tolist() == theirs(text)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken", "deepseek-coder", "default"])
def test_every_cut_against_llama_cpp(pre, smollm2, data_dir, tmp_path):
    """SmolLM2's vocabulary under another pre-tokenizer."""
    keys = ("model", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id")
    metadata = {f"tokenizer.ggml.{key}": read(smollm2).metadata[f"tokenizer.ggml.{key}"] for key in keys}
    path = written(metadata | {"tokenizer.ggml.pre": pre}, tmp_path / "vocabulary.gguf")
    theirs, ours = llama_cpp_ids(path), load(path)
    for text in [*HARD, (data_dir / "the-verdict" / "the-verdict.txt").read_text("utf-8")]:
        assert ours.encode(text).tolist() == theirs(text)


def test_a_sentencepiece_vocabulary_against_llama_cpp(tmp_path):
    path = written(llama(sentencepiece_model("llama")), tmp_path / "vocabulary.gguf")
    theirs, ours = llama_cpp_ids(path), load(path)
    for text in [*HARD, " a", "<s>hi you</s>\nhi<|im_end|> a"]:
        if text == "<think>":
            continue  # SentencePiece puts a space before it, llama.cpp one behind it
        assert ours.encode(text).tolist() == theirs(text)
        assert ours.encode(text, allow_special=True).tolist() == theirs(text, special=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "bert", "of kind 'bert'"),
        ("model", None, "of kind None"),
        ("pre", "new-model", "pre-tokenizer 'new-model' is none of those .* smollm"),
        ("tokens", [], "its eos_token_id is|outside its vocabulary of 0|3"),
        ("tokens", ["a"], "its vocabulary has 1 tokens, but token_type has 3"),
        ("token_type", np.ones(5, np.int32), "but token_type has 5 entries"),
        ("eos_token_id", 10**6, "its eos_token_id is 1000000, outside its vocabulary"),
        ("merges", ["a zzzz"], "not a tokenizer that can be used"),
        ("merges", ["a"], "not a tokenizer that can be used"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(key, value, message, tmp_path):
    metadata = byte_level("smollm", "smollm") | {f"tokenizer.ggml.{key}": value}
    with pytest.raises(UserError, match=message) as caught:
        from_metadata(metadata)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_holds_a_token_twice_is_refused():
    metadata = byte_level("smollm", "smollm")
    metadata["tokenizer.ggml.tokens"][-2] = "a"
    with pytest.raises(UserError, match="holds a token twice"):
        from_metadata(metadata)
    metadata = llama(sentencepiece_model("llama"))
    metadata["tokenizer.ggml.tokens"][-1] = metadata["tokenizer.ggml.tokens"][-2]
    with pytest.raises(UserError, match="not a SentencePiece model that can be used"):
        from_metadata(metadata)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_entries_of_any_other_type_are_one_clear_error(tmp_path_factory, data):
    metadata = data.draw(st.sampled_from([byte_level("smollm", "smollm"), llama(sentencepiece_model("llama"))]))
    key = data.draw(st.sampled_from(sorted(metadata)))
    value = data.draw(st.sampled_from([7, "x", ["a", "a"], [1, 2], [0.5], np.zeros(3).tolist()]))
    path = written(metadata | {key: value}, tmp_path_factory.mktemp("altered") / "vocabulary.gguf")
    try:
        load(path).encode("a b")
    except UserError as error:
        assert "\n" not in str(error) and "vocabulary.gguf" in str(error)
