"""Text to token ids and back: characters, bytes, words, byte-pair encoding, and the published vocabularies."""

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers.base import Tokenizer
from tinygrad_llm.tokenizers.bpe import BPETokenizer
from tinygrad_llm.tokenizers.byte import ByteTokenizer
from tinygrad_llm.tokenizers.char import CharTokenizer
from tinygrad_llm.tokenizers.pretrained import load
from tinygrad_llm.tokenizers.word import WordTokenizer

__all__ = ["BPETokenizer", "ByteTokenizer", "CharTokenizer", "Tokenizer", "WordTokenizer", "load", "train"]


def train(kind: str, text: str, vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer of `kind` char, byte, word or bpe for `text`; `vocab_size` is for word (optional) and bpe.

    Raises UserError for an unknown kind, empty text, and a `vocab_size` that is missing, too small or meaningless.
    """
    if kind == "word":
        return WordTokenizer.train(text, vocab_size)
    if kind == "bpe":
        if vocab_size is None:
            raise UserError("bpe needs a vocab_size: 1024 suits a megabyte of text, 8192 ten")
        return BPETokenizer.train(text, vocab_size)
    if kind not in ("char", "byte"):
        raise UserError(f"there is no tokenizer kind {kind!r}: choose char, byte, word or bpe")
    if vocab_size is not None:
        raise UserError(f"the vocabulary of {kind} has the size it has: leave vocab_size out, or choose word or bpe")
    return CharTokenizer.train(text) if kind == "char" else ByteTokenizer()
