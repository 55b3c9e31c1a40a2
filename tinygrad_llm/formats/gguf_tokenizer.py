"""A tokenizer as metadata of a GGUF file: the other way round from `tokenizers.gguf`.

It is made from the files that the tokenizer saves, which every kind has in one form. llama.cpp has byte-level BPE with
one of some cuts of the text, and SentencePiece's BPE. Another kind goes into the file as its tokenizer.json, so that it
is read back here, and llama.cpp opens the model without a vocabulary.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto

from tinygrad_llm.tokenizers import Tokenizer
from tinygrad_llm.tokenizers.bpe import GPT2_PATTERN
from tinygrad_llm.tokenizers.gguf import CUTS_OF, ENDS, NO_VOCABULARY, ROLES, WHOLE_FILE
from tinygrad_llm.tokenizers.sentencepiece import BPE, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED


def write_tokenizer(tokenizer: Tokenizer, n_tokens: int, chat_template: str | None) -> dict[str, Any]:
    """The metadata of a tokenizer for a model with an embedding for `n_tokens`."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        whole = Path(folder, "tokenizer.json").read_text("utf-8")
        model = Path(folder, "tokenizer.model")
        proto = ModelProto.FromString(model.read_bytes()) if model.is_file() else None
    description = json.loads(whole)
    if proto and proto.trainer_spec.model_type == BPE:
        entries = _sentencepiece(proto)
    elif description["model"]["type"] == "BPE" and description["model"].get("byte_fallback"):
        entries = _byte_fallback(description)
    elif description["model"]["type"] == "BPE" and description["model"]["merges"] and (pre := _pre(description)):
        entries = _byte_level(description) | {"pre": pre}
    else:
        entries = {"model": NO_VOCABULARY}
    if "tokens" in entries:  # llama.cpp wants one for every row of the embedding
        used = len(entries["tokens"])
        entries["tokens"] += [f"[PAD{i}]" for i in range(used, n_tokens)]
        entries["token_type"] += [UNUSED] * (n_tokens - used)
        if "scores" in entries:
            entries["scores"] += [-1e4] * (n_tokens - used)
    for name, role in ROLES.items():
        if role in tokenizer.roles:
            entries[f"{name}_token_id"] = tokenizer.special_tokens[tokenizer.roles[role]]
    others = sorted(tokenizer.eos_ids - {entries.get("eos_token_id")})
    free = [f"{name}_token_id" for name in ENDS if f"{name}_token_id" not in entries]
    entries |= dict(zip(free, others, strict=False))
    entries["add_bos_token"] = tokenizer.bos_id is not None
    metadata = {f"tokenizer.ggml.{name}": value for name, value in entries.items()}
    if chat_template:
        metadata["tokenizer.chat_template"] = chat_template
    if entries["model"] == NO_VOCABULARY:
        metadata[WHOLE_FILE] = whole
    return metadata


def _sentencepiece(proto: ModelProto) -> dict[str, Any]:
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "token_type": [piece.type for piece in proto.pieces],
        "add_space_prefix": proto.normalizer_spec.add_dummy_prefix,
        "remove_extra_whitespaces": proto.normalizer_spec.remove_extra_whitespaces,
    }


def _byte_fallback(description: dict) -> dict[str, Any]:
    """SentencePiece's BPE as tokenizer.json has it: an earlier merge is a piece of a higher score."""
    entries = _vocabulary(description)
    scores = {}
    for rank, merge in enumerate(description["model"]["merges"]):
        scores.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), float(-rank))
    types = {f"<0x{b:02X}>": BYTE for b in range(256)} | {description["model"]["unk_token"]: UNKNOWN}
    cut = json.dumps([description["normalizer"], description["pre_tokenizer"]])
    return entries | {
        "model": "llama",
        "pre": "default",
        "scores": [scores.get(token, -1e4) for token in entries["tokens"]],
        "token_type": [types.get(token, kind) for token, kind in zip(*entries.values(), strict=True)],
        "add_space_prefix": '"Prepend"' in cut or ("prepend_scheme" in cut and '"never"' not in cut),
    }


def _byte_level(description: dict) -> dict[str, Any]:
    merges = description["model"]["merges"]
    return (
        {"model": "gpt2"}
        | _vocabulary(description)
        | {"merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]}
    )


def _vocabulary(description: dict) -> dict[str, list]:
    """Every id's token and its type."""
    model, added = description["model"], {token["id"]: token for token in description["added_tokens"]}
    names = {i: name for name, i in model["vocab"].items()} | {i: token["content"] for i, token in added.items()}
    tokens, types = [], []
    for i in range(max(names) + 1):
        kind = NORMAL if i in names else UNUSED
        if i in added:
            kind = CONTROL if added[i]["special"] else USER_DEFINED
        tokens.append(names.get(i, f"[PAD{i}]"))
        types.append(kind)
    return {"tokens": tokens, "token_type": types}


def _pre(description: dict) -> str | None:
    """llama.cpp's name for how the text is cut before merging."""
    cut = description["pre_tokenizer"] or {}
    *cuts, last = cut["pretokenizers"] if cut.get("type") == "Sequence" else [cut]
    if description["normalizer"] or last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    patterns = list(map(_pattern, cuts))
    patterns += [GPT2_PATTERN] if last.get("use_regex", True) else []
    return next((name for name, known in CUTS_OF.items() if known == patterns), None)


def _pattern(part: dict) -> str | None:
    """The regular expression that a part of the cut isolates."""
    match part:
        case {"type": "Digits", "individual_digits": True}:
            return r"\p{N}"
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern
    return None
