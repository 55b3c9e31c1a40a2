"""Instructions and conversations as tokens, and which of those tokens are an answer.

Three styles: "chat", the template that a model was published with; "plain", texts as they stand, one after the other;
and "alpaca" (Taori et al. 2023), for models that have no template:

    Below is an instruction that describes a task. Write a response that appropriately completes the request.

    ### Instruction:
    Name the capital.

    ### Input:
    France

    ### Response:
    Paris<end>
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from tinygrad_llm.errors import UserError
from tinygrad_llm.evaluation import scoring
from tinygrad_llm.files import reading
from tinygrad_llm.finetuning.config import Style, StyleConfig
from tinygrad_llm.finetuning.data import Entry
from tinygrad_llm.finetuning.objectives import IGNORE
from tinygrad_llm.tokenizers import Tokenizer

PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
HEADING = re.compile(r"\s*### (?:Instruction|Input|Response):")


@dataclass(frozen=True)
class Dialogue:
    """Turns [{"role": "user", "content": "..."}, ...], of which the last is the assistant's.

    Alpaca's entries have an instruction and may have an input, which are the user's turn together. `where` is the place
    in a file, for messages.
    """

    where: str
    turns: list[dict[str, str]]
    instruction: str | None = None
    input: str = ""

    @property
    def question(self) -> str:
        """What is asked, to be shown."""
        return "\n\n".join(turn["content"] for turn in self.turns[:-1] if turn["role"] != "system")

    @property
    def answer(self) -> str:
        return self.turns[-1]["content"]

    def with_answer(self, answer: str) -> "Dialogue":
        return replace(self, turns=[*self.turns[:-1], {"role": "assistant", "content": answer}])


class Styled:
    """What a task has whose settings are a StyleConfig, and whose model a tokenizer."""

    config: StyleConfig
    tokenizer: Tokenizer

    @property
    def style(self) -> Style:
        """The one that is asked for, or that suits the model."""
        return self.config.style or natural_style(self.tokenizer)


def natural_style(tokenizer: Tokenizer) -> Style:
    """chat for a model that has a template, alpaca for others."""
    return "chat" if tokenizer.chat_template else "alpaca"


class Encoded(NamedTuple):
    """Tokens; `labels`, which are those of the answers and IGNORE for the others; and where the last answer begins."""

    ids: list[int]
    labels: list[int]
    start: int


def dialogue(entry: Entry) -> Dialogue:
    """What an entry holds: "instruction", "input" and "output", or "messages". Raises UserError, naming the entry, for
    fields that are missing, empty or no text, and for messages that are no conversation with an answer at its end."""
    if "messages" not in entry.fields:
        instruction, output = entry.text("instruction"), entry.text("output")
        given = entry.text("input", may_be_empty=True) if entry.fields.get("input") is not None else ""
        question = f"{instruction}\n\n{given}" if given.strip() else instruction
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
        return Dialogue(entry.where, turns, instruction, given)
    messages = entry.fields["messages"]
    if not (isinstance(messages, list) and all(isinstance(message, dict) for message in messages)):
        raise UserError(f'{entry.where}: "messages" must be a list of objects with a "role" and a "content"')
    turns = []
    for i, message in enumerate(messages, 1):
        turn = Entry(f"{entry.where}, message {i}", message)
        role, content = turn.text("role"), turn.text("content")
        before = turns[-1]["role"] if turns else None
        if not {"system": i == 1, "user": before != "user", "assistant": before == "user"}.get(role):
            raise UserError(f"{turn.where}: the role {role!r} cannot stand here: user and assistant speak in turn")
        turns.append({"role": role, "content": content})
    if not turns or turns[-1]["role"] != "assistant":
        raise UserError(f"{entry.where}: the last message must be the assistant's: it is the answer to learn")
    if [turn["role"] for turn in turns] == ["user", "assistant"]:
        return Dialogue(entry.where, turns, turns[0]["content"])
    return Dialogue(entry.where, turns)


def encode(tokenizer: Tokenizer, dialogue: Dialogue, style: Style) -> Encoded:
    """The dialogue's tokens up to the one that ends the last answer.

    Raises UserError, naming the entry, for characters without tokens, a template that fails, and what a style cannot
    say.
    """
    with reading(dialogue.where):
        if style == "chat":
            return _chat(tokenizer, dialogue)
        prompt = written(dialogue, style)
        ids, whole = scoring.encode(tokenizer, prompt), scoring.encode(tokenizer, prompt + dialogue.answer)
        if whole[: len(ids)] != ids:  # a token reaches from one into the other, which cannot be where one is awaited
            whole = ids + tokenizer.encode(dialogue.answer).tolist()
        whole += sorted(tokenizer.eos_ids)[:1]
        return Encoded(whole, [IGNORE] * len(ids) + whole[len(ids) :], len(ids))


def encode_prompt(tokenizer: Tokenizer, dialogue: Dialogue, style: Style) -> list[int]:
    """The tokens up to where the last answer begins, whatever that is. Raises UserError as `encode` does."""
    with reading(dialogue.where):
        if style == "chat":
            return tokenizer.apply_chat_template(dialogue.turns[:-1])
        return scoring.encode(tokenizer, written(dialogue, style))


def written(dialogue: Dialogue, style: Style) -> str:
    """The prompt as text, where no template makes it. Raises UserError for what the style cannot say."""
    if dialogue.instruction is None:
        raise UserError(f"{style} has one instruction and one answer, not {len(dialogue.turns)} messages: take chat")
    if style == "plain":
        return dialogue.question
    sections = {"Instruction": dialogue.instruction} | ({"Input": dialogue.input} if dialogue.input.strip() else {})
    return PREAMBLE + "".join(f"### {name}:\n{text}\n\n" for name, text in sections.items()) + "### Response:\n"


def extract(text: str, style: Style) -> str:
    """The answer in what a model has said: up to where it would go on with a heading of Alpaca's."""
    if style == "plain":
        return text
    return (HEADING.split(text)[0] if style == "alpaca" else text).strip()


def said(tokenizer: Tokenizer, ids: Iterable[int], style: Style) -> str:
    """The answer in the tokens that a model has written, without the one that ended it, and those that the tokenizer
    does not have: an embedding may have more."""
    return extract(tokenizer.decode([i for i in ids if i in tokenizer.tokens and i not in tokenizer.eos_ids]), style)


def _chat(tokenizer: Tokenizer, dialogue: Dialogue) -> Encoded:
    turns = dialogue.turns
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=False)
    labels, start, end = [IGNORE] * len(ids), 0, 0
    for i, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(turns[:i])
        last = i + 1 == len(turns)
        upto = ids if last else tokenizer.apply_chat_template(turns[: i + 1], add_generation_prompt=False)
        start = len(prompt)
        if prompt != ids[:start] or upto != ids[: len(upto)]:
            raise UserError(f"the chat template writes what stands before message {i + 1} otherwise once that is said")
        ends = [k for k in range(start, len(upto)) if ids[k] in tokenizer.eos_ids]
        end = ends[-1] + 1 if ends else len(upto)
        labels[start:end] = ids[start:end]
    return Encoded(ids[:end], labels[:end], start)
