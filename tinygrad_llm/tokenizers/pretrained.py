"""Tokenizers that exist already: saved by us or by Hugging Face's library, published by OpenAI."""

import json
import os
import re
from pathlib import Path

import tiktoken

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.tokenizers.base import Tokenizer
from tinygrad_llm.tokenizers.bpe import GPT2_PATTERN, BPETokenizer
from tinygrad_llm.tokenizers.byte import BYTE_OF, ByteTokenizer
from tinygrad_llm.tokenizers.char import CharTokenizer
from tinygrad_llm.tokenizers.word import WordTokenizer


def load(name_or_path: str | os.PathLike) -> Tokenizer:
    """The tokenizer called `byte`, or by tiktoken's name for it (`gpt2`, `cl100k_base`...), or in a folder or file.

    A folder holds `tokenizer.json`, as `Tokenizer.save` or transformers wrote it. OpenAI's vocabularies are downloaded
    once by tiktoken, but for GPT-2's where `$TINYGRAD_LLM_DATA/gpt2-bpe` holds its `encoder.json` and `vocab.bpe`.
    Raises UserError for what is not found, not whole, or not a kind of tokenizer that this package has.
    """
    if name_or_path == "byte":
        return ByteTokenizer()
    if name_or_path in tiktoken.list_encoding_names():
        return _published(name_or_path)
    path = Path(name_or_path)
    if path.is_dir():
        path /= "tokenizer.json"
    if not path.is_file():
        names = ", ".join(["byte", *tiktoken.list_encoding_names()])
        raise UserError(f"there is no tokenizer at {path}: give a folder with tokenizer.json, that file, or {names}")
    with reading(path):
        return _from_json(json.loads(path.read_text("utf-8")))


def _published(name: str) -> BPETokenizer:
    data = os.environ.get("TINYGRAD_LLM_DATA")
    if name == "gpt2" and data and (folder := Path(data, "gpt2-bpe")).is_dir():
        with reading(folder):
            vocab = json.loads((folder / "encoder.json").read_text("utf-8"))
            merges = (folder / "vocab.bpe").read_text("utf-8").splitlines()[1:]
            special_tokens = {"<|endoftext|>": vocab.pop("<|endoftext|>")}
            return _bpe(vocab, merges, special_tokens, GPT2_PATTERN)
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


def _from_json(data: dict) -> Tokenizer:
    """The tokenizer that a parsed tokenizer.json describes; its kind follows from the model and the pre-tokenizer."""
    model, cut = data["model"], data["pre_tokenizer"]
    special_tokens = {token["content"]: token["id"] for token in data["added_tokens"]}
    vocab = {token: i for token, i in model["vocab"].items() if token not in special_tokens}
    ids = [*vocab.values(), *special_tokens.values()]
    if not (ids and all(type(i) is int and 0 <= i < 2**31 for i in ids) and len(set(ids)) == len(ids)):
        raise UserError("the ids of its vocabulary are not distinct whole numbers")
    if data["normalizer"] is None:
        if model["type"] == "WordLevel" and cut == CharTokenizer.pre_tokenizer:
            return CharTokenizer(vocab, special_tokens)
        if model["type"] == "WordLevel" and cut == WordTokenizer.pre_tokenizer:
            return WordTokenizer(vocab, special_tokens)
        if model["type"] == "BPE" and (pattern := _byte_level_pattern(cut)):
            return _bpe(vocab, model["merges"], special_tokens, pattern)
    raise UserError(
        f"a tokenizer of model {model['type']!r} with this normalizer or pre-tokenizer is not one that this program "
        "has: it has char, byte, word and byte-level BPE without normalizer"
    )


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


def _bpe(vocab: dict[str, int], merges: list, special_tokens: dict[str, int], pattern: str) -> ByteTokenizer:
    """The tokenizer of a vocabulary and merges ("a b" or [a, b]) that are written in stand-in characters."""
    tokens = {bytes(BYTE_OF[char] for char in token): i for token, i in vocab.items()}
    if tokens == {bytes([b]): b for b in range(256)} and not special_tokens:
        return ByteTokenizer()
    for b in range(256):
        if bytes([b]) not in tokens:
            raise UserError(f"its vocabulary has no token for the byte {b:#04x}, so it could not write every text")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    # tiktoken merges the pair that makes the lowest id, so the merges must make the ids in order.
    merged = dict.fromkeys(vocab[left + right] for left, right in pairs)
    if list(merged) != sorted(i for token, i in vocab.items() if len(token) > 1):
        raise UserError("its merges and its vocabulary do not fit: each merge must make the next id")
    return BPETokenizer(tokens, special_tokens, pattern)
