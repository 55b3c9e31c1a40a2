"""tokenizer.json, the format of Hugging Face's `tokenizers`: its parts, as dictionaries."""

from typing import Any

FUSE = {"type": "Fuse"}  # joins tokens with nothing between them
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = BYTE_LEVEL | {"use_regex": False}  # bytes to stand-ins, without GPT-2's cut


def description(
    model: dict, pre_tokenizer: dict | None, decoder: dict, added_tokens: list[dict], **parts: Any
) -> dict[str, Any]:
    """A whole tokenizer.json; `parts` may be a `normalizer` and a `post_processor`."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": parts.get("normalizer"),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": parts.get("post_processor"),
        "decoder": decoder,
        "model": model,
    }


def bpe(vocab: dict[str, int], merges: list, **settings: Any) -> dict[str, Any]:
    """Byte-pair encoding with `merges` "a b" or ["a", "b"], the first to be applied first."""
    absent = dict.fromkeys(["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"])
    return {"type": "BPE", **absent, "fuse_unk": False, **settings, "vocab": vocab, "merges": merges}


def added_token(name: str, i: int, special: bool = True) -> dict[str, Any]:
    """A token that is found in the text before anything else is; a special one only where that is asked for."""
    return {"id": i, "content": name, "special": special} | dict.fromkeys(
        ["single_word", "lstrip", "rstrip", "normalized"], False
    )


def split(pattern: str) -> dict[str, Any]:
    """A cut into the matches of a regular expression (Oniguruma's) and what is between them."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(kind: str, parts: list[dict]) -> dict[str, Any]:
    """Several `pretokenizers`, `normalizers` or `decoders`, one after the other."""
    return {"type": "Sequence", kind: parts}


def put_before(token: str, i: int) -> dict[str, Any]:
    """A post-processor that puts a token before a text."""
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = {token: {"id": token, "ids": [i], "tokens": [token]}}
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, start, second],
        "special_tokens": special,
    }
