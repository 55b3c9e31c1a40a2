"""What PPO and GRPO share: a policy answers prompts, the answers get rewards, and what earned more becomes likelier.

Shapes: N answers of T tokens. A step draws a batch of answers, then makes several updates by parts of it.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning.alignment import Aligned, AlignmentConfig
from tinygrad_llm.finetuning.data import Entry, read_entries, split
from tinygrad_llm.finetuning.objectives import IGNORE, token_log_probabilities
from tinygrad_llm.finetuning.preferences import with_prompt
from tinygrad_llm.finetuning.prompts import Dialogue, encode_prompt, said
from tinygrad_llm.finetuning.report import BLUE, Report, axes
from tinygrad_llm.finetuning.rewards import load_reward
from tinygrad_llm.finetuning.rollouts import arrays, divergence, frozen, sample
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.metrics import read_metrics

DATA = """The data is a list of objects with a prompt (a text, or messages with roles and contents), or with an
instruction and maybe an input; or any text file, of which each line is a prompt. The reward is one of

  letter:e           the share of a letter
  words:good.txt     the share of the words that a file lists
  sum                1 where the answer to 12+34= begins with 46, else 0
  module:function    a Python function of a prompt and an answer, in the working directory or installed
  runs/reward        a reward model, which `tinygrad-llm finetune reward` makes

The run folder is like that of `tinygrad-llm train`, with a report: report.html to look at, report.json for programs."""


@dataclass(frozen=True)
class PolicyConfig(AlignmentConfig):
    """How rewards are sought.

    Args:
        reward: what answers are rewarded for: letter:e, words:FILE, sum, module:function, or a reward model's folder
        batch_size: prompts of a step
        minibatches: parts of a step's answers, each of which makes an update
        ppo_epochs: how often a step goes through its answers
        clip: how far an answer's token may move in a step: its probability's ratio to the one before, minus 1
        kl_coefficient: what the divergence from the model to start from costs
        kl_target: nats per token: the coefficient rises where the divergence is above this, and falls below, by a
            fifth a step at most; fixed unless given
    """

    reward: str = ""
    batch_size: int = 32
    minibatches: int = 2
    ppo_epochs: int = 4
    clip: float = 0.2
    kl_coefficient: float = 0.05
    kl_target: float | None = None
    learning_rate: float = 1e-5
    train_fraction: float = 0.8
    val_fraction: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not self.reward:
            raise UserError("there is no reward: give --reward")
        for name in ("minibatches", "ppo_epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.clip < 1:
            raise UserError(f"clip must be between 0 and 1, not {self.clip}")
        if self.kl_coefficient < 0:
            raise UserError(f"kl_coefficient must not be negative, as {self.kl_coefficient} is")
        if self.kl_target is not None and not (self.kl_target > 0 and self.kl_coefficient > 0):
            raise UserError("kl_target must be more than 0, and kl_coefficient, which is adapted, too")


class Prompt(NamedTuple):
    """An example: the tokens of a prompt, and the prompt with some answer."""

    ids: list[int]
    dialogue: Dialogue


class Rollout(NamedTuple):
    """Answers after their prompts: ids and labels; under the policy that drew them and the model to start from, the
    log-probabilities; and what each token is to learn. All (N, T), zero outside the answers; the last two are PPO's."""

    ids: np.ndarray
    labels: np.ndarray
    log_p: np.ndarray
    reference: np.ndarray
    advantages: np.ndarray
    values: np.ndarray | None = None
    returns: np.ndarray | None = None

    @property
    def mask(self) -> np.ndarray:
        return (self.labels != IGNORE).astype(self.log_p.dtype)

    def part(self, rows: np.ndarray) -> "Rollout":
        return Rollout(*(None if array is None else array[rows] for array in self))


class Played(NamedTuple):
    """Answers of a policy: token by token, as texts, and what they earned (N,)."""

    rollout: Rollout
    texts: list[str]
    rewards: np.ndarray

    def numbers(self, kl_coefficient: float) -> dict[str, float]:
        """Means: the reward; the divergence from the model to start from, nats per token; tokens of an answer. The
        loss is the reward negated, and what the divergence of an answer costs."""
        length = float(self.rollout.mask.sum() / len(self.texts))
        kl = divergence(self.rollout.log_p, self.rollout.reference, self.rollout.labels)
        reward = float(self.rewards.mean())
        return {"loss": kl_coefficient * kl * length - reward, "reward": reward, "kl": kl, "length": length}


class Policy(Aligned):
    """Fine-tunes a language model on rewards of its own answers. A subclass says how: `learn` and `loss`."""

    config: PolicyConfig
    unit = "negated reward, and the divergence's cost"

    def __init__(self, config: PolicyConfig, run: Path):
        self.kl_coefficient = config.kl_coefficient
        super().__init__(config, run)

    @abstractmethod
    def learn(self, rollout: Rollout, rewards: np.ndarray) -> Rollout:
        """The rollout with what its tokens are to learn from the answers' rewards (N,)."""

    def read(self, path: Path) -> list[Entry]:
        entries = read_entries(path, ("prompt",))
        for entry in entries:
            with_prompt(entry, "?")
        return entries

    def prepare(self, entries: list[Entry]) -> dict[str, list[Prompt]]:
        c = self.config
        # Whatever takes random numbers is loaded before a resumed run puts them back.
        self.reward = load_reward(c.reward, self.style)
        self.before = None if c.lora else self.load_base().requires_grad_(False).eval()
        room = self.max_length - c.max_new_tokens
        dialogues = [with_prompt(entry, "?") for entry in entries]
        prompts = [Prompt(encode_prompt(self.tokenizer, one, self.style), one) for one in dialogues]
        kept = [prompt for prompt in prompts if 0 < len(prompt.ids) <= room]
        self.left_out = len(prompts) - len(kept)
        if not kept:
            raise UserError(f"{c.data}: no prompt leaves room for {c.max_new_tokens} tokens: lower max_new_tokens")
        return split(kept, c.train_fraction, c.val_fraction, c.seed)

    def about_data(self) -> str:
        about = f"; {self.left_out:,} are left out, which leave no room for answers" if self.left_out else ""
        return f" prompts, as {self.style}; the reward is {self.config.reward}{about}"

    @contextmanager
    def start(self) -> Iterator[LanguageModel]:
        if self.config.lora:
            with super().start() as model:
                yield model
        else:
            yield self.before

    def collate(self, examples: list[Prompt]) -> list[Prompt]:
        return examples

    def tokens(self, batch: list[Prompt]) -> float:
        return self.drawn / self.config.gradient_accumulation_steps

    def weight(self, batch: Rollout) -> float:
        return float(batch.mask.sum())

    def play(self, model: LanguageModel, prompts: Sequence[Prompt], seed: int | None = None) -> Played:
        """The model's answers to the prompts, and their rewards."""
        c, ids = self.config, [prompt.ids for prompt in prompts]
        answers = sample(model, ids, c.max_new_tokens, self.tokenizer.eos_ids, seed)
        texts = [said(self.tokenizer, answer, self.style) for answer in answers]
        rewards = self.reward([one.dialogue.with_answer(text) for one, text in zip(prompts, texts, strict=True)])
        ids, labels = arrays(ids, answers)
        log_p = frozen(token_log_probabilities, model, ids, labels)
        with self.start() as start:
            reference = frozen(token_log_probabilities, start, ids, labels)
        return Played(Rollout(ids, labels, log_p, reference, np.zeros_like(log_p)), texts, rewards)

    def optimize(self, batches: list[list[Prompt]]) -> dict[str, float]:
        """A step: answers are drawn, and the policy is updated by each part of them, several times."""
        c = self.config
        played = self.play(self.trunk(self.model), self.asked([prompt for batch in batches for prompt in batch]))
        rollout = self.learn(played.rollout, played.rewards)
        found = played.numbers(self.kl_coefficient)
        self.drawn, self.clipped = int(rollout.mask.sum()), []
        count = len(rollout.ids)
        for _ in range(c.ppo_epochs):
            for rows in np.array_split(random.default.permutation(count), min(c.minibatches, count)):
                values = super().optimize([rollout.part(rows)])
        found |= {"clip_fraction": float(np.mean(self.clipped)), "kl_coefficient": self.kl_coefficient}
        self.kl_coefficient = adapted(self.kl_coefficient, found["kl"], c.kl_target)
        return values | found

    def asked(self, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts, each as often as it is to be answered in a step."""
        return prompts

    def note_clipped(self, log_p: Tensor, batch: Rollout) -> None:
        """Keep the share of the tokens that have moved as far as they may."""
        moved = np.abs(np.exp(to_device(log_p.data, "cpu") - batch.log_p) - 1) > self.config.clip
        self.clipped.append((moved * batch.mask).sum() / batch.mask.sum())

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"kl_coefficient": self.kl_coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.kl_coefficient = state["kl_coefficient"]

    def measure(self) -> dict[str, dict[str, float]]:
        """Of answers to what validates, drawn with the same random numbers each time."""
        played = self.play(self.trunk(self.model), self.examples["val"], self.config.seed)
        return {"val": played.numbers(self.config.kl_coefficient)}

    def fill(self, report: Report) -> None:
        test = self.examples["test"]
        report.values["examples"] = {name: len(part) for name, part in self.examples.items()}
        report.values |= {"style": self.style, "left_out": self.left_out}
        if not test:
            report.paragraph("There is no test set.")
            return
        with self.start() as start:
            before = self.play(start, test, self.config.seed)
        after = self.play(self.trunk(self.model), test, self.config.seed)
        found = {
            when: said.numbers(self.config.kl_coefficient) for when, said in (("before", before), ("after", after))
        }
        report.values["test"] = found
        report.tiles(
            {
                "mean reward, before training → after": " → ".join(f"{row['reward']:.4g}" for row in found.values()),
                "nats per token from the model to start from": f"{found['after']['kl']:.4f}",
                f"of {self.model.numel():,} numbers trained": f"{self.trained():,}",
            }
        )
        report.heading("Before and after", f"{len(test):,} answers to the test set's prompts, drawn by chance")
        report.table(["", *found["after"]], [[when, *row.values()] for when, row in found.items()])
        lines = [line for line in read_metrics(self.run) if line["split"] == "batch"]
        if lines:
            report.heading("Bounds", "the share of tokens that moved as far as they may, and what divergence cost")
            report.figure(bounds(lines))
        shown = min(self.config.answers, len(test))
        report.values["answers"] = [
            {"prompt": test[i].dialogue.question, "before": before.texts[i], "after": after.texts[i]}
            for i in range(shown)
        ]
        if shown:
            report.heading("Answers", "each with its reward")
            rows = [
                [test[i].dialogue.question, *(f"{one.texts[i]}\n{one.rewards[i]:.4g}" for one in (before, after))]
                for i in range(shown)
            ]
            report.compare(["prompt", "before", "after"], rows)


def adapted(coefficient: float, kl: float, target: float | None) -> float:
    """The KL's coefficient for the next step, raised where the KL is above its target and lowered where it is below, by
    a fifth at most (Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2). With no target it stays."""
    return coefficient if target is None else coefficient * (1 + min(max(kl / target - 1, -0.2), 0.2))


def bounds(lines: list[dict]):
    """A figure of how far tokens moved in each step, and of the KL's coefficient."""
    figure, panels = axes(2)
    for panel, name in zip(panels, ("clip_fraction", "kl_coefficient"), strict=True):
        panel.plot([line["step"] for line in lines], [line[name] for line in lines], color=BLUE, linewidth=0.9)
        panel.set(xlabel="step", ylabel=name.replace("_", " "))
    return figure
