"""Pairs of answers to one prompt, of which one is preferred: read, and turned into tokens.

An entry has an instruction and maybe an input, a "prompt" (a text, or messages), or none where the answers are whole
conversations; and an answer "chosen" and one "rejected", each a text or messages.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning import data
from tinygrad_llm.finetuning.config import Style
from tinygrad_llm.finetuning.data import Entry, Example
from tinygrad_llm.finetuning.prompts import Dialogue, Styled, dialogue, encode, encode_prompt
from tinygrad_llm.tokenizers import Tokenizer


class Pair(NamedTuple):
    """Two answers to a prompt as tokens, the prompt's own tokens, and both as texts; `number` counts the pairs."""

    chosen: Example
    rejected: Example
    prompt: list[int]
    dialogue: Dialogue  # with the chosen answer
    rejected_answer: str
    number: int

    @property
    def ids(self) -> Sequence[int]:
        """The longer of the two."""
        return max(self.chosen.ids, self.rejected.ids, key=len)


class Pairs(NamedTuple):
    """What `encode_pairs` gives: those that can be learned from, and how many were cut or left out."""

    pairs: list[Pair]
    truncated: int
    left_out: int
    equal: int

    def counts(self) -> dict[str, int]:
        return {name: value for name, value in self._asdict().items() if name != "pairs"}

    def about(self, longest: int) -> str:
        """What there is to say of the latter three."""
        counts = {
            f"have an answer that lost what came after token {longest}": self.truncated,
            f"are left out, whose answers begin only after token {longest}": self.left_out,
            "are left out, whose answers are the same": self.equal,
        }
        return "; ".join(f"{count:,} {text}" for text, count in counts.items() if count)


class OnPairs(Styled):
    """The data of a task that learns from pairs: what its Finetuner does not say by itself."""

    def read(self, path: Path) -> list[Entry]:
        entries = data.read_entries(path)
        for entry in entries:
            read_pair(entry)
        return entries

    def prepare(self, entries: list[Entry]) -> dict[str, list[Pair]]:
        c = self.config
        self.found = encode_pairs(self.tokenizer, entries, self.style, self.max_length)
        return data.split(self.found.pairs, c.train_fraction, c.val_fraction, c.seed)

    def about_data(self) -> str:
        about = self.found.about(self.max_length)
        return f" pairs, as {self.style}" + (f"; {about}" if about else "")


def read_pair(entry: Entry) -> tuple[Dialogue, Dialogue]:
    """The prompt with the chosen answer, and with the rejected one. Raises UserError, naming the entry, for fields that
    are missing, empty or of another kind, and for answers to different prompts."""
    chosen, rejected = (_answered(entry, name) for name in ("chosen", "rejected"))
    if chosen.turns[:-1] != rejected.turns[:-1]:
        raise UserError(f"{entry.where}: 'chosen' and 'rejected' are not answers to the same prompt")
    return chosen, rejected


def _answered(entry: Entry, name: str) -> Dialogue:
    """The entry's prompt with the answer of this name."""
    answer, prompt = entry.fields.get(name), entry.fields.get("prompt", entry.fields.get("messages"))
    if not isinstance(answer, list):
        return with_prompt(entry, entry.text(name))
    if prompt is None:
        before = []
    else:
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": entry.text("prompt")}]
    return dialogue(Entry(entry.where, {"messages": [*before, *answer]}))


def with_prompt(entry: Entry, answer: str) -> Dialogue:
    """The entry's prompt, which may be an instruction, a "prompt" or "messages", with an answer to it.

    Raises UserError, naming the entry, where there is none."""
    fields = entry.fields
    if "instruction" in fields:
        return dialogue(Entry(entry.where, fields | {"output": answer}))
    prompt = fields.get("prompt", fields.get("messages"))
    if isinstance(prompt, list):
        return dialogue(Entry(entry.where, {"messages": [*prompt, {"role": "assistant", "content": answer}]}))
    return dialogue(Entry(entry.where, {"instruction": entry.text("prompt"), "output": answer}))


def encode_pairs(tokenizer: Tokenizer, entries: Sequence[Entry], style: Style, longest: int) -> Pairs:
    """The entries as tokens, cut off at `longest`, without those from which nothing can be learned.

    Raises UserError where none is left, and as `read_pair` and `encode` do.
    """
    pairs, truncated, left_out, equal = [], 0, 0, 0
    for entry in entries:
        dialogues = read_pair(entry)
        encoded = [encode(tokenizer, one, style) for one in dialogues]
        chosen, rejected = (Example(one.ids[:longest], one.labels[:longest]) for one in encoded)
        if max(one.start for one in encoded) >= longest:
            left_out += 1
        elif chosen.ids == rejected.ids:
            equal += 1
        else:
            truncated += max(len(one.ids) for one in encoded) > longest
            prompt = encode_prompt(tokenizer, dialogues[0], style)
            pairs.append(Pair(chosen, rejected, prompt, dialogues[0], dialogues[1].answer, len(pairs)))
    if not pairs:
        raise UserError(f"no pair of different answers begins within the first {longest} tokens: raise max_length")
    return Pairs(pairs, truncated, left_out, equal)


def collate(pairs: Sequence[Pair], pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels (2 B, T): the chosen answers after their prompts, then the rejected ones."""
    return data.collate([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs], pad_id)
