"""The tasks: what each asks a model to score, and what it makes of the scores.

Their definitions are those of EleutherAI's harness, under whose names the metrics stand.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.evaluation.items import jsonl_files, read_items
from tinygrad_llm.evaluation.scoring import Request, Score, encode_pair, start_token
from tinygrad_llm.tokenizers import Tokenizer


@dataclass(frozen=True)
class Metric:
    """A figure: its task (with `/` before a subset's name), its standard error or None, and how many it is over."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int


class Task:
    """Items, the pairs of context and continuation that each asks about, and the metrics that the scores give."""

    name: str
    items: Sequence

    def pairs(self, item) -> list[tuple[str, str]]:
        """What an item asks: how probable is each continuation after its context?"""
        raise NotImplementedError(f"{type(self).__name__} needs pairs")

    def requests(self, item, tokenizer: Tokenizer) -> list[Request]:
        """The item's pairs in tokens."""
        return [encode_pair(tokenizer, *pair) for pair in self.pairs(item)]

    def metrics(self, scores: list[list[Score]]) -> list[Metric]:
        """The figures from the first items' scores, one a request."""
        raise NotImplementedError(f"{type(self).__name__} needs metrics")


class Perplexity(Task):
    """Loss a token, perplexity and bits a byte of a text, through a window that slides over it.

    A window sees `max_length` tokens and moves on by `stride` (half of that unless given), so that every token is
    scored once, after at least max_length - stride + 1 others, or all that there are
    (https://huggingface.co/docs/transformers/perplexity). Bits a byte compare models with different vocabularies.
    """

    name = "perplexity"

    def __init__(
        self, text: str, tokenizer: Tokenizer, max_length: int, stride: int | None = None, limit: int | None = None
    ):
        stride = max(1, max_length // 2) if stride is None else stride
        if not 1 <= stride <= max_length:
            raise UserError(f"stride must be from 1 to {max_length}, what a window sees, not {stride}")
        start, ids = start_token(tokenizer), tokenizer.encode(text)
        tokens = ids if start is None else np.array([start, *ids])
        if len(tokens) < 2:
            raise UserError("the text is too short: there is no token to predict")
        self.items = windows(tokens, max_length, stride)[:limit]
        self.bytes_per_token = len(text.encode()) / len(ids)

    def requests(self, item: Request, tokenizer: Tokenizer) -> list[Request]:
        return [item]

    def metrics(self, scores: list[list[Score]]) -> list[Metric]:
        losses = -np.concatenate([score.log_probs for [score] in scores])
        loss, stderr, n = *mean(losses), len(losses)
        bits = 1 / (math.log(2) * self.bytes_per_token)
        return [
            Metric(self.name, "loss", loss, stderr, n),
            _perplexity(self.name, losses),
            Metric(self.name, "bits_per_byte", bits * loss, None if stderr is None else bits * stderr, n),
        ]


def windows(tokens: np.ndarray, max_length: int, stride: int) -> list[Request]:
    """Cut tokens into contexts of their predecessors and continuations, so that all but the first are scored once."""
    requests, begin, scored = [], 0, 1
    while scored < len(tokens):
        end = min(begin + max_length + 1, len(tokens))  # the last token is a target only
        requests.append((tokens[begin:scored], tokens[scored:end]))
        begin, scored = begin + stride, end
    return requests


class Lambada(Task):
    """The last word of a passage, which takes the whole of it to guess (Paperno et al. 2016): is it the likeliest?

    A file's objects have the passage as "text".
    """

    name = "lambada"

    def __init__(self, path: str | os.PathLike, limit: int | None = None):
        self.items = [item["text"] for file in jsonl_files(path) for _, item in read_items(file, limit, text=str)]

    def pairs(self, item: str) -> list[tuple[str, str]]:
        *context, word = item.split(" ")
        return [(" ".join(context), f" {word}")]

    def metrics(self, scores: list[list[Score]]) -> list[Metric]:
        losses = -np.array([score.log_probs.sum() for [score] in scores])
        return [_accuracy(self.name, "acc", [score.is_greedy for [score] in scores]), _perplexity(self.name, losses)]


class Blimp(Task):
    """Minimal pairs (Warstadt et al. 2020): is the grammatical sentence more probable than the other?

    A file's objects have "sentence_good", "sentence_bad", the phenomenon as "linguistics_term" and the subset as "UID".
    """

    name = "blimp"

    def __init__(self, path: str | os.PathLike, limit: int | None = None):
        fields = dict.fromkeys(["sentence_good", "sentence_bad", "linguistics_term", "UID"], str)
        self.items = [item for file in jsonl_files(path) for _, item in read_items(file, limit, **fields)]

    def pairs(self, item: dict) -> list[tuple[str, str]]:
        return [("", f" {item[name]}") for name in ("sentence_good", "sentence_bad")]

    def metrics(self, scores: list[list[Score]]) -> list[Metric]:
        hits = defaultdict(list)
        for item, (good, bad) in zip(self.items, scores, strict=False):
            phenomenon = f"{self.name}/{item['linguistics_term']}"
            for task in (self.name, phenomenon, f"{phenomenon}/{item['UID']}"):
                hits[task].append(good.log_probs.sum() >= bad.log_probs.sum())
        return [_accuracy(task, "acc", hits[task]) for task in sorted(hits)]


class MultipleChoice(Task):
    """The best ending of a text, as in HellaSwag (Zellers et al. 2019): acc by log-likelihood, acc_norm by that over an
    ending's characters, acc_bytes over its bytes.

    A file's objects have "ctx", "endings" and the right one's index as "label". HellaSwag's own, which have an
    "activity_label" too, are cleaned as in the harness.
    """

    name = "multiple-choice"

    def __init__(self, path: str | os.PathLike, limit: int | None = None):
        self.items = []
        for file in jsonl_files(path):
            for place, item in read_items(file, limit, ctx=str, endings=list):
                indices = [str(i) for i in range(len(item["endings"]))]
                if str(item.get("label")) not in indices:
                    raise UserError(f"{place}: 'label' must be one of {', '.join(indices)}, the right ending's index")
                item["label"] = int(item["label"])
                self.items.append(_clean(item) if "activity_label" in item else item)

    def pairs(self, item: dict) -> list[tuple[str, str]]:
        return [(item["ctx"], f" {ending}") for ending in item["endings"]]

    def metrics(self, scores: list[list[Score]]) -> list[Metric]:
        hits = defaultdict(list)
        for item, answers in zip(self.items, scores, strict=False):
            sums = np.array([answer.log_probs.sum() for answer in answers])
            sizes = {
                "acc": 1,
                "acc_norm": np.array([len(ending) for ending in item["endings"]]),
                "acc_bytes": np.array([len(ending.encode()) for ending in item["endings"]]),
            }
            for metric, size in sizes.items():
                hits[metric].append(np.argmax(sums / size) == item["label"])
        return [_accuracy(self.name, metric, hits[metric]) for metric in hits]


def _clean(item: dict) -> dict:
    """An item of HellaSwag without WikiHow's marks in brackets, with what the text is about before it."""

    def clean(text: str) -> str:
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ")

    start, continued = item.get("ctx_a", item["ctx"]), item.get("ctx_b", "")
    ctx = clean(f"{item['activity_label']}: {start} {continued.capitalize()}")
    return item | {"ctx": ctx, "endings": [clean(ending) for ending in item["endings"]]}


def mean(values) -> tuple[float, float | None]:
    """The mean and its standard error, which one value has not."""
    values = np.asarray(values, np.float64)
    stderr = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), stderr


def _accuracy(task: str, metric: str, hits: list[bool]) -> Metric:
    return Metric(task, metric, *mean(hits), len(hits))


def _perplexity(task: str, losses: np.ndarray) -> Metric:
    """e to the mean loss; its standard error by the delta method: the loss's times the derivative, which is itself."""
    loss, stderr = mean(losses)
    value = math.exp(loss) if loss < 700 else math.inf
    return Metric(task, "perplexity", value, None if stderr is None else value * stderr, len(losses))
