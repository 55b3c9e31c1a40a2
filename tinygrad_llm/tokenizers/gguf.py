"""The vocabulary inside a GGUF file: its metadata under `tokenizer.`, as llama.cpp understands it."""

import json
from collections.abc import Mapping
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers.base import Tokenizer
from tinygrad_llm.tokenizers.bpe import GPT2_PATTERN
from tinygrad_llm.tokenizers.description import (
    BYTE_LEVEL,
    BYTES_ONLY,
    added_token,
    bpe,
    description,
    put_before,
    sequence,
    split,
)
from tinygrad_llm.tokenizers.huggingface import HuggingFaceTokenizer
from tinygrad_llm.tokenizers.sentencepiece import BPE, BYTE, CONTROL, NORMAL, USER_DEFINED, SentencePieceTokenizer

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre: the cuts of the text before merging, each applied to the pieces that the one before has left
CUTS = {
    "gpt-2 mpt olmo phi-2": [GPT2_PATTERN],
    "smollm starcoder refact command-r codeshell exaone": [r"\p{N}", GPT2_PATTERN],
    "llama-bpe llama3 llama-v3 falcon3 dbrx smaug-bpe": [LLAMA3_PATTERN],
    "qwen2 deepseek-r1-qwen stablelm2 megrez": [LLAMA3_PATTERN.replace("{1,3}", "")],
    "tekken": [TEKKEN_PATTERN],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"],
}
CUTS_OF = {name: cuts for names, cuts in CUTS.items() for name in names.split()}
WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}  # a word of the vocabulary is not merged anew

NO_VOCABULARY, WHOLE_FILE = "no_vocab", "tokenizer.huggingface.json"  # of kinds that llama.cpp does not have
ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
ENDS = ("eos", "eot", "eom")  # of the text, of the turn, of the message


def from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes: kinds `gpt2` (byte-level BPE) and `llama` (SentencePiece).

    Raises UserError for another kind, an unknown pre-tokenizer, and entries that do not fit together.
    """
    entries = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    kind, tokens, pre = entries.get("model"), list(entries.get("tokens", ())), entries.get("pre", "default")
    if not all(isinstance(token, str) for token in tokens):
        raise UserError("its vocabulary is not of text")
    if kind not in ("gpt2", "llama"):
        raise UserError(f"its vocabulary is of kind {kind!r}, but this program reads gpt2 and llama")
    types = _column(entries, "token_type", [NORMAL] * len(tokens))
    ids = {name: int(value) for name in (*ROLES, *ENDS) if (value := entries.get(f"{name}_token_id")) is not None}
    for name, i in ids.items():
        if not 0 <= i < len(tokens):
            raise UserError(f"its {name}_token_id is {i}, outside its vocabulary of {len(tokens)} tokens")
        if types[i] == NORMAL and name != "unknown":
            types[i] = CONTROL
    add_bos = entries.get("add_bos_token", kind == "llama" or pre in WHOLE_WORDS)
    bos_id = ids.get("bos") if add_bos else None

    tokenizer = _llama(entries, tokens, types) if kind == "llama" else _gpt2(entries, tokens, types, pre, bos_id)
    tokenizer.roles = {role: tokens[ids[name]] for name, role in ROLES.items() if name in ids}
    tokenizer.bos_id, tokenizer.eos_ids = bos_id, {ids[name] for name in ENDS if name in ids}
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer


def with_roles(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer from elsewhere, with what the metadata says of its special tokens, and its chat template."""
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    ids = {name: i for name in (*ROLES, *ENDS) if (i := metadata.get(f"tokenizer.ggml.{name}_token_id")) in names}
    tokenizer.roles = {role: names[ids[name]] for name, role in ROLES.items() if name in ids}
    tokenizer.bos_id = ids.get("bos") if metadata.get("tokenizer.ggml.add_bos_token") else None
    tokenizer.eos_ids = {ids[name] for name in ENDS if name in ids}
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer


def _gpt2(entries: dict, tokens: list[str], types: list[int], pre: str, bos_id: int | None) -> HuggingFaceTokenizer:
    if pre not in CUTS_OF:
        raise UserError(f"its pre-tokenizer {pre!r} is none of those that this program knows: {', '.join(CUTS_OF)}")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        raise UserError("its vocabulary holds a token twice")
    added = [
        added_token(token, i, kind == CONTROL)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    return HuggingFaceTokenizer(
        json.dumps(
            description(
                bpe(vocab, list(entries.get("merges", ())), ignore_merges=pre in WHOLE_WORDS),
                sequence("pretokenizers", [*map(split, CUTS_OF[pre]), BYTES_ONLY]),
                BYTE_LEVEL,
                added,
                post_processor=None if bos_id is None else put_before(tokens[bos_id], bos_id),
            )
        )
    )


def _llama(entries: dict, tokens: list[str], types: list[int]) -> SentencePieceTokenizer:
    """The vocabulary as the SentencePiece model that it came from; llama.cpp applies it the `legacy` way."""
    model = ModelProto()
    for token, score, kind in zip(tokens, _column(entries, "scores", [0.0] * len(tokens)), types, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = BPE
    model.trainer_spec.byte_fallback = BYTE in types
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = bool(entries.get("add_space_prefix", True))
    model.normalizer_spec.remove_extra_whitespaces = bool(entries.get("remove_extra_whitespaces", False))
    return SentencePieceTokenizer(model.SerializeToString(), legacy=True)


def _column(entries: dict, name: str, default: list) -> list:
    column = list(entries[name].tolist() if hasattr(entries.get(name), "tolist") else entries.get(name, default))
    if len(column) != len(default):
        raise UserError(f"its vocabulary has {len(default)} tokens, but {name} has {len(column)} entries")
    return column
