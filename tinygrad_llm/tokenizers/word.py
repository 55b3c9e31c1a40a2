"""One token for each word: the first lesson, and why nobody stops there. What it never saw becomes [UNK]."""

from collections import Counter

import numpy as np
import regex

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers.base import Tokenizer, training_bytes
from tinygrad_llm.tokenizers.description import FUSE, split

SPECIAL_TOKENS = {"[BOS]": 0, "[EOS]": 1, "[PAD]": 2, "[UNK]": 3}

# A run of letters, digits and underscores, or any single character besides: punctuation, a space, a line feed.
PATTERN = r"[\p{L}\p{M}\p{N}_]+|[^\p{L}\p{M}\p{N}_]"


class WordTokenizer(Tokenizer):
    """A token is a word, a punctuation mark or a whitespace character, so joined tokens give the text again."""

    pre_tokenizer = split(PATTERN)
    decoder = FUSE

    def __init__(self, vocab: dict[str, int], special_tokens: dict[str, int] = SPECIAL_TOKENS):
        super().__init__({i: word.encode() for word, i in vocab.items()}, special_tokens)
        self._id_of = vocab
        self._unknown = special_tokens["[UNK]"]

    @classmethod
    def train(cls, text: str, vocab_size: int | None = None) -> "WordTokenizer":
        """Number the words of `text`, the most frequent first; `vocab_size` keeps that many tokens at most."""
        training_bytes(text)
        n_special = len(SPECIAL_TOKENS)
        if vocab_size is not None and vocab_size <= n_special:
            raise UserError(f"vocab_size {vocab_size} leaves no room for words: {n_special} are special tokens")
        counts = Counter(regex.findall(PATTERN, text)).most_common(vocab_size and vocab_size - n_special)
        return cls({word: n_special + i for i, (word, _) in enumerate(counts)})

    def _encode(self, text: str) -> np.ndarray:
        return np.array([self._id_of.get(word, self._unknown) for word in regex.findall(PATTERN, text)], np.int32)
