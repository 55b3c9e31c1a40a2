"""One token for each byte of the UTF-8 text: 256 tokens write anything."""

from collections.abc import Sequence

import numpy as np

from tinygrad_llm.tokenizers.base import Tokenizer, utf8
from tinygrad_llm.tokenizers.description import BYTE_LEVEL, bpe

# Byte-level vocabularies are kept in text files, where a raw byte may be no character, or a space. GPT-2 gave every
# byte a printable stand-in: itself where Latin-1 prints it, else the next character from U+0100 on.
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
ALPHABET = bytes(PRINTABLE) + bytes(b for b in range(256) if b not in PRINTABLE)  # by stand-in: GPT-2's first 256 ids
STAND_IN = {b: chr(b) if i < len(PRINTABLE) else chr(256 + i - len(PRINTABLE)) for i, b in enumerate(ALPHABET)}
BYTE_OF = {char: b for b, char in STAND_IN.items()}


class ByteTokenizer(Tokenizer):
    """A token is a byte, and its id the byte's value. Any text and any bytes come back exactly."""

    pre_tokenizer = BYTE_LEVEL
    decoder = BYTE_LEVEL
    merges: Sequence[tuple[bytes, bytes]] = ()  # pairs of tokens that become one; plain bytes never do

    def __init__(self):
        super().__init__({b: bytes([b]) for b in range(256)}, {})

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """The ids of any bytes at all, int32 (n,), such that `decode_bytes` gives them back."""
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def _encode(self, text: str) -> np.ndarray:
        return self.encode_bytes(utf8(text))

    def _spell(self, token: bytes) -> str:
        return "".join(STAND_IN[b] for b in token)

    def _model(self, vocab: dict[str, int]) -> dict:
        return bpe(vocab, [f"{self._spell(left)} {self._spell(right)}" for left, right in self.merges])
