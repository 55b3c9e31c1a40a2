"""Tokens as text while they come."""

import codecs
from collections.abc import Sequence

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers import Tokenizer


class Text:
    """A text that grows by tokens: whole characters only, and nothing that may yet become a stop string.

    text     what can be shown so far
    stopped  whether a stop string was found; it and what follows it are not part of the text

    Raises UserError for a stop string that is empty.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        if "" in stop:
            raise UserError("a stop string is empty: it would end every text before it begins")
        self.tokenizer, self.stop = tokenizer, stop
        self.text, self.stopped = "", False
        self._held = ""  # what may be the beginning of a stop string
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """Add a token, and return what can be shown since the last one: "" or more."""
        return self._show(self._decoder.decode(self.tokenizer.decode_bytes([token])))

    def finish(self) -> str:
        """What was held back, now that no token follows."""
        piece = self._show(self._decoder.decode(b"", final=True))
        if not self.stopped:
            piece += self._held
            self.text += self._held
            self._held = ""
        return piece

    def _show(self, new: str) -> str:
        if self.stopped:
            return ""
        pending = self._held + new
        found = [pending.index(stop) for stop in self.stop if stop in pending]
        self.stopped = bool(found)
        shown = min(found) if found else len(pending) - self._beginning(pending)
        self._held = pending[shown:]
        self.text += pending[:shown]
        return pending[:shown]

    def _beginning(self, text: str) -> int:
        """How many of the last characters are the beginning of a stop string."""
        return max((n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
