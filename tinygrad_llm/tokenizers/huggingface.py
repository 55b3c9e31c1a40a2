"""Any `tokenizer.json`, by Hugging Face's library `tokenizers`."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import ArrayLike

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.tokenizers.base import Tokenizer, utf8
from tinygrad_llm.tokenizers.byte import BYTE_OF


class HuggingFaceTokenizer(Tokenizer):
    """What `description`, the text of a tokenizer.json, describes.

    Added tokens that are not special, such as `<think>`, belong to the vocabulary and are found in any text.
    Raises UserError for a description that the library refuses.
    """

    def __init__(self, description: str):
        self._library = _library(description)
        vocab, added = self._library.get_vocab(), self._library.get_added_tokens_decoder()
        if not vocab:
            raise UserError("its vocabulary is empty")
        tokens = dict(zip(vocab.values(), self._bytes(list(vocab)), strict=True))
        tokens |= {i: token.content.encode() for i, token in added.items()}
        super().__init__(tokens, {token.content: i for i, token in added.items() if token.special})
        self._strips = [
            {token.content for token in added.values() if getattr(token, side)} for side in ("lstrip", "rstrip")
        ]

        whole = self._library.to_str()
        unknown = re.search(r'"unk_(?:id|token)":(\d+|"(?:[^"\\]|\\.)*")', whole)
        unknown = unknown and json.loads(unknown[1])
        never = [i for name, i in self.special_tokens.items() if unknown not in (i, name)]
        self._never = np.array(never, np.int32)
        if never and '"model":{"type":"BPE"' not in whole:
            whole = _renamed(json.loads(whole), self.special_tokens.keys() - {unknown})
        self._first = self._later = _library(whole)
        # Metaspace may put a space before the first word only, and then none before text behind a special token.
        if (later := whole.replace('"prepend_scheme":"first"', '"prepend_scheme":"never"')) != whole:
            self._later = _library(later)
        self.bos_id = self._start()

    def decode(self, ids: ArrayLike) -> str:
        """The text that `ids` stand for, without the space that some kinds put before a text."""
        self.decode_bytes(ids)  # complains of unknown ids, which the library leaves out
        return self._library.decode(np.asarray(ids).ravel().tolist(), skip_special_tokens=False)

    def save(self, folder: str | os.PathLike) -> None:
        """Write `tokenizer.json` as it was, but for what it puts before a text if `bos_id` has changed."""
        whole = self._library.to_str(pretty=True)
        if self.bos_id != self._start():
            whole = json.dumps(json.loads(whole) | {"post_processor": self._post_processor()}, ensure_ascii=False)
        write_atomic(Path(folder) / "tokenizer.json", whole + "\n")
        self._save_config(folder)

    def _start(self) -> int | None:
        """The special token that the library puts before a text."""
        if self._library.post_processor is None:
            return None
        start = self._library.encode("a")
        return start.ids[0] if start.special_tokens_mask[0] else None

    def _encode(self, text: str) -> np.ndarray:
        return self._encode_by(self._first, text)

    def _encode_after_special(self, text: str) -> np.ndarray:
        return self._encode_by(self._later, text)

    def _encode_by(self, library: tokenizers.Tokenizer, text: str) -> np.ndarray:
        utf8(text)
        try:
            ids = np.array(library.encode_batch_fast([text], add_special_tokens=False)[0].ids, np.int32)
        except Exception as error:  # for an unknown word, say
            raise UserError(f"the text cannot be encoded: {' '.join(str(error).split())}") from error
        if len(never := ids[np.isin(ids, self._never)]):
            name = self.tokens[int(never[0])].decode()
            raise UserError(f"the text holds {name!r}, which this tokenizer cannot write but as its special token")
        return ids

    def _split(self, text: str, mark: str) -> list[str]:
        """Some special tokens swallow the whitespace before or behind them."""
        parts = super()._split(text, mark)
        before, behind = self._strips
        for k in range(1, len(parts), 2):
            if parts[k] in before:
                parts[k - 1] = parts[k - 1].rstrip()
            if parts[k] in behind:
                parts[k + 1] = parts[k + 1].lstrip()
        return parts

    def _bytes(self, names: list[str]) -> list[bytes]:
        """What each token stands for where it is not the first, in which place some lose a space."""
        decoder = self._library.decoder
        if decoder is None:
            return [f" {name}".encode() for name in names]
        if "ByteLevel" in repr(decoder):
            return [
                bytes(BYTE_OF[c] for c in name) if all(c in BYTE_OF for c in name) else name.encode() for name in names
            ]
        byte = {f"<0x{b:02X}>": bytes([b]) for b in range(256)} if "ByteFallback" in repr(decoder) else {}
        return [byte.get(name) or decoder.decode(["a", name])[1:].encode() for name in names]


def _renamed(data: dict, names: Iterable[str]) -> str:
    """The description with other names, for models that would find the words of their vocabulary in any text."""
    new = {name: f"\0{k}\0" for k, name in enumerate(names)}
    vocab = data["model"]["vocab"]
    if isinstance(vocab, dict):
        data["model"]["vocab"] = {new.get(name, name): i for name, i in vocab.items()}
    else:
        data["model"]["vocab"] = [[new.get(name, name), score] for name, score in vocab]
    data["added_tokens"] = [token | {"content": new.get(n := token["content"], n)} for token in data["added_tokens"]]
    return json.dumps(data, separators=(",", ":"))


def _library(description: str) -> tokenizers.Tokenizer:
    try:
        library = tokenizers.Tokenizer.from_str(description)
    except Exception as error:  # the library raises no narrower type
        raise UserError(f"it is not a tokenizer that can be used: {' '.join(str(error).split())}") from error
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return library
