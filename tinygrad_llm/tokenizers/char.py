"""One token for each character: the smallest vocabulary that keeps letters whole."""

import sys

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers.base import Tokenizer, training_bytes
from tinygrad_llm.tokenizers.description import FUSE, split


class CharTokenizer(Tokenizer):
    """A token is a character that occurred in the training text; there are no others."""

    pre_tokenizer = split(r"[\s\S]")
    decoder = FUSE

    def __init__(self, vocab: dict[str, int], special_tokens: dict[str, int] | None = None):
        super().__init__({i: char.encode() for char, i in vocab.items()}, special_tokens or {})
        self._id_of = np.full(sys.maxunicode + 1, -1, np.int32)  # code point -> id
        for char, i in vocab.items():
            self._id_of[ord(char)] = i

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """Number the characters of `text` in the order of their code points."""
        training_bytes(text)
        return cls({char: i for i, char in enumerate(sorted(set(text)))})

    def _encode(self, text: str) -> np.ndarray:
        ids = self._id_of[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")]
        if (ids < 0).any():
            position = int(np.argmin(ids))
            raise UserError(
                f"the character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} is not in "
                f"this vocabulary of {len(self.tokens)} characters: train on text that has it, or use byte or bpe"
            )
        return ids
