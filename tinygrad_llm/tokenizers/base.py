"""What every tokenizer does: text to token ids and back, and a file that Hugging Face's libraries open too."""

import json
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.tokenizers.description import added_token, description, put_before

# What transformers calls the special tokens that it gives a meaning.
ROLES = {
    "[BOS]": "bos_token",
    "[EOS]": "eos_token",
    "[PAD]": "pad_token",
    "[UNK]": "unk_token",
    "<|endoftext|>": "eos_token",
}


class Tokenizer:
    """Text to token ids and back; the kinds differ in what a token is.

    tokens          id -> the bytes that the token stands for
    special_tokens  name -> id, such as {"<|endoftext|>": 50256}; user text never becomes one unasked
    vocab_size      the largest id plus one: the rows that an embedding needs
    roles           what transformers calls the special tokens that have a meaning: {"eos_token": "<|endoftext|>"}
    eos_ids         the tokens that end a text
    bos_id          the token to put before a text, where the model wants one
    chat_template   the Jinja template that turns a conversation into text, where the model has one
    """

    pre_tokenizer: dict  # how Hugging Face's library is to cut the text, and how to join the tokens again
    decoder: dict

    def __init__(self, tokens: dict[int, bytes], special_tokens: dict[str, int]):
        self.special_tokens = special_tokens
        self.tokens = dict(sorted((tokens | {i: name.encode() for name, i in special_tokens.items()}).items()))
        self.vocab_size = max(self.tokens) + 1
        self.roles = {ROLES[name]: name for name in special_tokens if name in ROLES}
        self.eos_ids = {special_tokens[name] for role, name in self.roles.items() if role == "eos_token"}
        self.bos_id: int | None = None
        self.chat_template: str | None = None

    def encode(self, text: str, allow_special: bool = False) -> np.ndarray:
        """The ids of `text`, int32 (n,). With `allow_special`, a special token's name in it becomes that token.

        Raises UserError for a character that has no token, naming it and its position.
        """
        return self._encode_with_special(text) if allow_special and self.special_tokens else self._encode(text)

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool = True) -> list[int]:
        """The ids of a conversation [{"role": "user", "content": "..."}, ...] as the model was trained to see it.

        With `add_generation_prompt` they end where the assistant is to speak. Special tokens come from the template
        alone: where a message holds the name of one, it is text.
        Raises UserError without a template, for messages without roles, and for a template that fails or never ends.
        """
        if self.chat_template is None:
            raise UserError("this tokenizer has no chat template: take a model tuned for chat, or set chat_template")
        from tinygrad_llm.tokenizers.chat import render  # Jinja is slow to import, and most runs do not talk

        text, mark = render(self.chat_template, messages, self.roles, self.special_tokens, add_generation_prompt)
        return self._encode_with_special(text, mark).tolist()

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """The bytes that `ids` stand for. Raises UserError for an id outside the vocabulary."""
        ids = np.asarray(ids).ravel().tolist()
        try:
            return b"".join([self.tokens[i] for i in ids])
        except KeyError as error:
            unknown = error.args[0]
            raise UserError(
                f"token {unknown} at position {ids.index(unknown)} is not in this vocabulary of "
                f"{len(self.tokens)} tokens: decode with the tokenizer that encoded the text"
            ) from None

    def decode(self, ids: ArrayLike) -> str:
        """The text that `ids` stand for; bytes that are not whole UTF-8 characters become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def show(self, ids: ArrayLike) -> list[str]:
        """Each token in printable form: a line feed as \\n, part of a character as \\xe2."""
        tokens = [self.decode_bytes(i).decode("utf-8", "backslashreplace") for i in np.asarray(ids).ravel()]
        return ["".join(c if c.isprintable() else repr(c)[1:-1] for c in token) for token in tokens]

    def save(self, folder: str | os.PathLike) -> None:
        """Write `tokenizer.json`, in the format of Hugging Face's `tokenizers`, and `tokenizer_config.json`.

        `load` of this package and transformers' AutoTokenizer.from_pretrained both open the folder.
        """
        names = {i: name for name, i in self.special_tokens.items()}
        # The special tokens stand in the vocabulary too: the library would number them anew if they did not.
        vocab = {names.get(i) or self._spell(token): i for i, token in self.tokens.items()}
        added = [added_token(name, i) for i, name in sorted(names.items())]
        post_processor = self._post_processor()
        tokenizer = description(
            self._model(vocab), self.pre_tokenizer, self.decoder, added, post_processor=post_processor
        )
        write_atomic(Path(folder) / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False, indent=2) + "\n")
        self._save_config(folder)

    def _post_processor(self) -> dict | None:
        return None if self.bos_id is None else put_before(self.tokens[self.bos_id].decode(), self.bos_id)

    def _save_config(self, folder: str | os.PathLike, tokenizer_class: str = "PreTrainedTokenizerFast") -> None:
        """Write `tokenizer_config.json`, and `chat_template.jinja` where there is a template."""
        config = {"tokenizer_class": tokenizer_class, "clean_up_tokenization_spaces": False} | self.roles
        write_atomic(Path(folder) / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n")
        if self.chat_template is not None:
            write_atomic(Path(folder) / "chat_template.jinja", self.chat_template)

    def _encode_with_special(self, text: str, mark: str = "") -> np.ndarray:
        """The ids of `text`, in which names are special tokens, but for those with `mark` in or behind them."""
        first, *rest = self._split(text, mark)
        ids = [self._encode(first)]
        for name, part in zip(rest[::2], rest[1::2], strict=True):
            ids += [np.array([self.special_tokens[name]], np.int32), self._encode_after_special(part)]
        return np.concatenate(ids)

    def _split(self, text: str, mark: str) -> list[str]:
        """Text without marks, the name of a special token, text, a name, and so on."""
        names = "|".join(re.escape(name) for name in sorted(self.special_tokens, key=len, reverse=True)) or "(?!)"
        parts = re.split(f"({names}){f'(?!{mark})' if mark else ''}", text)
        return [part.replace(mark, "") for part in parts]

    def _encode(self, text: str) -> np.ndarray:
        """Text without special tokens to ids."""
        raise NotImplementedError

    def _encode_after_special(self, text: str) -> np.ndarray:
        """The same for the text behind a special token; some kinds put a space before the first only."""
        return self._encode(text)

    def _spell(self, token: bytes) -> str:
        """A token as the key of the vocabulary in `tokenizer.json`."""
        return token.decode()

    def _model(self, vocab: dict[str, int]) -> dict:
        """The entry "model" of `tokenizer.json`; here, one token for each piece of text."""
        return {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}


def utf8(text: str) -> bytes:
    """`text` as UTF-8. Raises UserError for half of a surrogate pair, which UTF-8 cannot hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start}, "
            "which is no character: read the text as UTF-8"
        ) from None


def training_bytes(text: str | bytes) -> bytes:
    """`text` as UTF-8, to train on. Raises UserError where there is none."""
    if not text:
        raise UserError("there is no text to train a tokenizer on: it is empty")
    return text if isinstance(text, bytes) else utf8(text)
