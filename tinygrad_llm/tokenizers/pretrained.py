"""Tokenizers that exist already: in folders of ours, Hugging Face's or OpenAI's, in GGUF files, on the hub."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import tiktoken

from tinygrad_llm import hub
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.tokenizers.base import Tokenizer
from tinygrad_llm.tokenizers.bpe import GPT2_PATTERN, BPETokenizer
from tinygrad_llm.tokenizers.byte import BYTE_OF, ByteTokenizer
from tinygrad_llm.tokenizers.char import CharTokenizer
from tinygrad_llm.tokenizers.description import BYTE_LEVEL, added_token, bpe, description
from tinygrad_llm.tokenizers.huggingface import HuggingFaceTokenizer
from tinygrad_llm.tokenizers.word import WordTokenizer

SETTINGS = "dropout unk_token continuing_subword_prefix end_of_word_suffix byte_fallback ignore_merges".split()
ROLES = [f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")]


def load(source: str | os.PathLike) -> Tokenizer:
    """The tokenizer called `byte`, or by tiktoken's name for it (`gpt2`, `cl100k_base`...), or of a model.

    A model may be a folder (a run, a checkpoint, Hugging Face's, OpenAI's), its name on the hub, or a .gguf file. The
    first of these that is there counts: tokenizer.json, tokenizer.model, encoder.json with vocab.bpe, vocab.json with
    merges.txt. OpenAI's vocabularies are downloaded once by tiktoken, but for GPT-2's where
    `$TINYGRAD_LLM_DATA/gpt2-bpe` holds its `encoder.json` and `vocab.bpe`.
    Raises UserError for what is not found, not whole, or not a kind of tokenizer that this package has.
    """
    if source == "byte":
        return ByteTokenizer()
    if source in tiktoken.list_encoding_names():
        return _published(source)
    path = hub.locate(source)
    if (path / "metrics.jsonl").is_file():
        from tinygrad_llm.training.checkpoint import find_model

        path = find_model(path)
    file = next((path / name for name in READERS if (path / name).is_file()), path)
    if file == path and (path / "adapter_config.json").is_file():  # that of the model they are for
        from tinygrad_llm.formats.peft import base_of

        return load(base_of(path))
    read = READERS.get(file.name) or SUFFIXES.get(file.suffix)
    if read is None or not file.is_file():
        names, files = ", ".join(["byte", *tiktoken.list_encoding_names()]), ", ".join(READERS)
        raise UserError(
            f"there is no tokenizer at {path}: give a folder with {files}, a .gguf file, or a name: {names}"
        )
    with reading(file):
        return read(file)


def _json_file(file: Path) -> Tokenizer:
    return _configured(_described(file.read_text("utf-8")), file.parent)


def _model_file(file: Path) -> Tokenizer:
    from tinygrad_llm.tokenizers.sentencepiece import SentencePieceTokenizer

    legacy = _read(file.parent / "tokenizer_config.json").get("legacy", False)
    return _configured(SentencePieceTokenizer(file.read_bytes(), legacy), file.parent)


def _vocabulary_and_merges(file: Path) -> Tokenizer:
    """GPT-2's two files, by OpenAI's names or Hugging Face's."""
    vocab = json.loads(file.read_text("utf-8"))
    merges_file = file.with_name({"encoder.json": "vocab.bpe", "vocab.json": "merges.txt"}[file.name])
    merges = merges_file.read_text("utf-8").splitlines()
    merges = merges[1:] if merges and merges[0].startswith("#version") else merges
    config = _read(file.parent / "tokenizer_config.json")
    listed = {token["content"] for token in config.get("added_tokens_decoder", {}).values() if token.get("special")}
    added = [added_token(name, i) for name, i in vocab.items() if name in listed | {"<|endoftext|>"}]
    tokenizer = _described(json.dumps(description(bpe(vocab, merges), BYTE_LEVEL, BYTE_LEVEL, added)))
    if file.name == "encoder.json" and not isinstance(tokenizer, BPETokenizer):
        raise UserError(f"{merges_file} does not make the tokens of {file}: one of them is not whole")
    return _configured(tokenizer, file.parent)


def _gguf_file(file: Path) -> Tokenizer:
    from tinygrad_llm.formats.gguf_reader import read  # as others here, slow to import and seldom needed
    from tinygrad_llm.tokenizers import gguf

    metadata = read(file).metadata
    if metadata.get("tokenizer.ggml.model") == gguf.NO_VOCABULARY and gguf.WHOLE_FILE in metadata:
        return gguf.with_roles(_described(metadata[gguf.WHOLE_FILE]), metadata)
    return gguf.from_metadata(metadata)


READERS: dict[str, Callable[[Path], Tokenizer]] = {
    "tokenizer.json": _json_file,
    "tokenizer.model": _model_file,
    "encoder.json": _vocabulary_and_merges,
    "vocab.json": _vocabulary_and_merges,
}
SUFFIXES = {".json": _json_file, ".model": _model_file, ".gguf": _gguf_file}


def _configured(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The tokenizer with what the files beside it say of its special tokens, and its chat template."""
    config = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
    for role in ROLES:
        name = config.get(role)
        name = name["content"] if isinstance(name, dict) else name
        if name in tokenizer.special_tokens:
            tokenizer.roles[role] = name
    ids = {role: tokenizer.special_tokens[name] for role, name in tokenizer.roles.items()}
    if isinstance(config.get("add_bos_token"), bool):
        tokenizer.bos_id = ids.get("bos_token") if config["add_bos_token"] else None
    model = _read(folder / "generation_config.json") or _read(folder / "config.json")
    ends = model.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    tokenizer.eos_ids = {i for i in (ids.get("eos_token"), *ends) if i in tokenizer.tokens}
    template = config.get("chat_template")
    if isinstance(template, list):  # several, of which one is for plain conversations
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    file = folder / "chat_template.jinja"
    tokenizer.chat_template = file.read_text("utf-8") if file.is_file() else template
    return tokenizer


def _read(file: Path) -> dict:
    """What a file of settings holds; nothing where there is none."""
    if not file.is_file():
        return {}
    with reading(file):
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict):
            raise UserError(f"{file} is not what it should be: it holds no settings")
        return content


def _published(name: str) -> Tokenizer:
    data = os.environ.get("TINYGRAD_LLM_DATA")
    if name == "gpt2" and data and (folder := Path(data, "gpt2-bpe")).is_dir():
        with reading(folder / "encoder.json"):
            return _vocabulary_and_merges(folder / "encoder.json")
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot download the vocabulary of {name} ({type(error).__name__}): connect to the network once, "
            "or set TIKTOKEN_CACHE_DIR to tiktoken's cache from a machine that has it"
        ) from error
    return BPETokenizer(encoding._mergeable_ranks, encoding._special_tokens, _oniguruma(encoding._pat_str))


def _oniguruma(pattern: str) -> str:
    """A pattern of tiktoken's that means the same to Oniguruma, the engine in Hugging Face's library.

    There `{1,3}+` repeats the repetition, and `$` also matches before a line feed.
    """
    return re.sub(r"(\{\d+,\d+\})\+", r"\1", pattern).replace("$", r"\z")


def _described(text: str) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes: one of our own kinds where that does the same, being faster."""
    data = json.loads(text)
    model, cut, vocab = data["model"], data["pre_tokenizer"], data["model"]["vocab"]
    if isinstance(vocab, dict):
        ids = list(vocab.values())
        if not (ids and all(type(i) is int and 0 <= i < 2**31 for i in ids) and len(set(ids)) == len(ids)):
            raise UserError("the ids of its vocabulary are not distinct whole numbers")
    _check_for_library(data)
    plain = all(t["special"] and not (t["lstrip"] or t["rstrip"] or t["single_word"]) for t in data["added_tokens"])
    if plain and not data["normalizer"] and (data["post_processor"] or BYTE_LEVEL)["type"] == "ByteLevel":
        special_tokens = {token["content"]: token["id"] for token in data["added_tokens"]}
        vocab = {token: i for token, i in vocab.items() if token not in special_tokens}
        if model["type"] == "WordLevel" and cut == CharTokenizer.pre_tokenizer:
            return CharTokenizer(vocab, special_tokens)
        if model["type"] == "WordLevel" and cut == WordTokenizer.pre_tokenizer:
            return WordTokenizer(vocab, special_tokens)
        if model["type"] == "BPE" and not any(model.get(name) for name in SETTINGS):
            ours = (pattern := _byte_level_pattern(cut)) and _bpe(vocab, model["merges"], special_tokens, pattern)
            return ours or HuggingFaceTokenizer(text)
    return HuggingFaceTokenizer(text)


def _check_for_library(data: dict) -> None:
    """What Hugging Face's library does not check, but crashes on."""
    prefix = data["model"].get("continuing_subword_prefix")
    for merge in data["model"].get("merges", ()) if prefix else ():
        if not (merge.split(" ") if isinstance(merge, str) else merge)[1].startswith(prefix):
            raise UserError(f"the merge {merge!r} does not continue a word with {prefix!r}")
    post = data.get("post_processor") or {}
    if post.get("type") == "TemplateProcessing":
        used = {part["SpecialToken"]["id"] for part in [*post["single"], *post["pair"]] if "SpecialToken" in part}
        if missing := used - post["special_tokens"].keys():
            raise UserError(f"its post_processor uses {missing.pop()!r}, which it does not define")


def _byte_level_pattern(cut: dict) -> str | None:
    match cut:
        case {"type": "ByteLevel", "add_prefix_space": False} if cut.get("use_regex", True):
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def _bpe(vocab: dict[str, int], merges: list, special_tokens: dict[str, int], pattern: str) -> ByteTokenizer | None:
    """The tokenizer of a vocabulary and merges ("a b" or [a, b]) that are written in stand-in characters, if it is
    one for tiktoken: with all bytes, and merges that make the ids in order, for it merges to the lowest id first.
    """
    if not all(char in BYTE_OF for token in vocab for char in token):
        return None
    tokens = {bytes(BYTE_OF[char] for char in token): i for token, i in vocab.items()}
    if tokens == {bytes([b]): b for b in range(256)} and not (merges or special_tokens):
        return ByteTokenizer()
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    merged = dict.fromkeys(vocab[left + right] for left, right in pairs)
    complete = all(bytes([b]) in tokens for b in range(256))
    if complete and list(merged) == sorted(i for token, i in vocab.items() if len(token) > 1):
        return BPETokenizer(tokens, special_tokens, pattern)
    return None
