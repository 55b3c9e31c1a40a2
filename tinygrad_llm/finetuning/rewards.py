"""Rewards: how good answers are, told by a program or by a reward model."""

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.finetuning.classify import load_run, score
from tinygrad_llm.finetuning.config import Style
from tinygrad_llm.finetuning.prompts import Dialogue, encode
from tinygrad_llm.formats.classifier import padding

Reward = Callable[[Sequence[Dialogue]], np.ndarray]  # of prompts with their answers, (N,)
KINDS = (
    "letter:e (its share), words:FILE (the share of those in it), sum (1 where that is right), a Python function "
    "module:name of a prompt and an answer, or the folder of a reward model"
)


def load_reward(source: str, style: Style) -> Reward:
    """The reward that `source` means, one of KINDS; a reward model reads dialogues in this style.

    Raises UserError for what is none of them or cannot be read.
    """
    kind, _, rest = source.partition(":")
    if os.path.isdir(source):
        return reward_model(source, style)
    if source == "sum":
        return program(right_sum)
    if kind == "letter" and len(rest) == 1:
        return program(lambda prompt, answer: answer.count(rest) / max(len(answer), 1))
    if kind == "words" and rest:
        with reading(rest):
            return program(share_of_words(Path(rest).read_text("utf-8").casefold().split()))
    if re.fullmatch(r"[\w.]+:\w+", source) and kind not in ("letter", "words"):
        return program(imported(kind, rest))
    raise UserError(f"there is no reward {source!r}: give {KINDS}")


def program(function: Callable[[str, str], float]) -> Reward:
    """The reward by a function of a prompt and an answer."""

    def reward(dialogues: Sequence[Dialogue]) -> np.ndarray:
        return np.array([function(one.question, one.answer) for one in dialogues], float)

    return reward


def right_sum(prompt: str, answer: str) -> float:
    """1 where the first number of the answer is the sum of the numbers in the prompt, else 0."""
    found = re.search(r"-?\d+", answer)
    return float(found is not None and int(found[0]) == sum(map(int, re.findall(r"\d+", prompt))))


def share_of_words(words: Sequence[str]) -> Callable[[str, str], float]:
    """The share of the words of an answer that are among these. Raises UserError for none."""
    if not words:
        raise UserError("there are no words in it")
    wanted = set(words)

    def reward(prompt: str, answer: str) -> float:
        found = re.findall(r"[\w']+", answer.casefold())
        return sum(word in wanted for word in found) / max(len(found), 1)

    return reward


def imported(module: str, name: str) -> Callable[[str, str], float]:
    """The function of a module, sought in the working directory too; what it gives must be a number."""
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module does
        raise UserError(f"cannot import the reward {module}:{name}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.pop(0)

    def reward(prompt: str, answer: str) -> float:
        try:
            found = float(function(prompt, answer))
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"the reward {module}:{name} failed for the answer {answer[:40]!r}: {message}") from error
        if not math.isfinite(found):
            raise UserError(f"the reward {module}:{name} is {found} for the answer {answer[:40]!r}")
        return found

    return reward


def reward_model(source: str, style: Style) -> Reward:
    """The reward by a model that `tinygrad-llm finetune reward` has made. Raises UserError for another."""
    model, tokenizer = load_run(source)
    if len(model.labels) != 1:
        raise UserError(f"{source} is no reward model but one of {len(model.labels)} classes")
    pad_id, longest = padding(tokenizer) or 0, model.trunk.config.block_size

    def reward(dialogues: Sequence[Dialogue]) -> np.ndarray:
        rows = [encode(tokenizer, one, style).ids[:longest] for one in dialogues]
        return score(model.eval(), rows, pad_id)[:, 0].astype(float)

    return reward
