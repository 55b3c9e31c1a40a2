"""What the fine-tuning tasks share: a model is loaded, a part of it is trained, and a report is written."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm import hub, random, tokenizers
from tinygrad_llm.data.sources import sha256
from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.data import Entry, Epochs, dataset, read_entries
from tinygrad_llm.finetuning.report import Report, curves
from tinygrad_llm.formats import check_vocabulary, load_model, save_model
from tinygrad_llm.formats.peft import load_adapter, save_adapter
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.models.heads import freeze
from tinygrad_llm.nn import Module
from tinygrad_llm.nn.lora import add_lora
from tinygrad_llm.training import checkpoint
from tinygrad_llm.training.compute import compute_as
from tinygrad_llm.training.loop import Loop
from tinygrad_llm.training.metrics import read_metrics


class Finetuner(Loop):
    """Fine-tunes a model as `config` says, in the folder `run`, from the newest checkpoint there if it has one.

    A task is a subclass with its `name`, its settings, `config_class`, and a `description` for the command line. It
    defines `prepare`, `collate`, `loss`, `weight`, `measure` and `fill`, and where they differ `read`, `make`, `trunk`,
    `load` and `write_model`. Its constructor raises UserError, before anything is written, for what does not work.
    """

    name = ""
    config_class = FinetuneConfig
    description = ""

    def __init__(self, config: FinetuneConfig, run: Path):
        super().__init__(run)
        self.settings = self.config = c = replace(config, out=None, **compute_as(config, config.dtype))
        path = dataset(c.data)
        entries = self.read(path)
        self.source = checkpoint.find_model(hub.locate(c.model))
        self.tokenizer = tokenizers.load(self.source)
        random.manual_seed(c.seed)
        self.model = self.open(self.resumed) if self.resumed else self.make(self.load_base())
        if c.lora and not self.resumed:
            add_lora(self.trunk(self.model), c.lora)
        elif c.last_blocks is not None:
            freeze(self.trunk(self.model), c.last_blocks)
        self.examples = self.prepare(entries)
        self.batches = Epochs(self.examples["train"], c.batch_size, self.collate, c.seed, lambda e: len(e.ids))
        epoch = math.ceil(len(self.batches) / c.gradient_accumulation_steps)  # steps
        steps = c.max_iters or math.ceil(c.epochs * epoch)
        self.config = replace(
            c,
            max_iters=steps,
            lr_decay_iters=c.lr_decay_iters or steps,
            eval_interval=c.eval_interval or epoch,
            checkpoint_interval=c.checkpoint_interval or c.eval_interval or epoch,
        )
        self.model.train()
        self.begin({"sha256": sha256(path), "examples": {name: len(part) for name, part in self.examples.items()}})

    def read(self, path: Path) -> list[Entry]:
        """The entries of the data."""
        return read_entries(path)

    def make(self, base: LanguageModel) -> Module:
        """What is trained, made of the model to start from."""
        if self.config.train == "head":
            raise UserError("there is no new head to train alone: train all, last:N, or adapters")
        return base

    def trunk(self, model: Module) -> LanguageModel:
        """The language model in what is trained."""
        return model

    def prepare(self, entries: list[Entry]) -> dict[str, list]:
        """The examples, each with `ids`, to train on ("train"), to validate with ("val") and to measure at the end."""
        raise NotImplementedError(f"{type(self).__name__} needs prepare")

    def collate(self, examples: list) -> Any:
        """A micro-batch of examples, as `loss` takes it."""
        raise NotImplementedError(f"{type(self).__name__} needs collate")

    def fill(self, report: Report) -> None:
        """Measure the best model on the test set, and put what was found into the report."""
        raise NotImplementedError(f"{type(self).__name__} needs fill")

    def load_base(self) -> LanguageModel:
        """The model to start from, on the device. Raises UserError where its tokenizer does not belong to it."""
        model = load_model(self.source, dtype=np.dtype(self.config.dtype), quantized=self.config.quantized)
        check_vocabulary(model, self.tokenizer)
        return model.to(self.config.device)

    def load(self, folder: Path) -> Module:
        """What `write_model` has written, where it was all of the model."""
        return load_model(folder, dtype=np.dtype(self.config.dtype))

    def open(self, folder: Path) -> Module:
        """The model in a checkpoint, on the device: whole, or the adapters in it beside the model to start from."""
        if self.config.lora:
            model = self.make(self.load_base())
            load_adapter(self.trunk(model), folder)
        else:
            model = self.load(folder)
        return model.to(self.config.device)

    def write_model(self, folder: Path) -> None:
        if self.config.lora:
            save_adapter(self.trunk(self.model), folder, self.base_name)
        else:
            save_model(self.trunk(self.model), folder, self.tokenizer)

    @property
    def base_name(self) -> str:
        """The model to start from, wherever one stands: an absolute path, or its name."""
        model = self.config.model
        return os.path.abspath(model) if os.path.exists(model) else model

    @property
    def max_length(self) -> int:
        """The most tokens of an example."""
        block = self.trunk(self.model).config.block_size
        return min(self.config.max_length or block, block)

    def about_data(self) -> str:
        """What is to be said of the examples beside their number, such as how many were truncated."""
        return ""

    def trained(self) -> int:
        """How many numbers are trained."""
        return self.optimizer.data.size

    def finish(self) -> Report:
        """Take the best model, measure it on the test set, and write report.html and report.json."""
        if self.best["step"] != self.step:
            self.model = self.open(checkpoint.best(self.run))
        self.model.eval()
        report = Report(f"{self.name}: {Path(self.config.data).stem}", self.config.model)
        report.values |= {"best_step": self.best["step"], "best_validation_loss": self.best["loss"]}
        self.fill(report)
        lines = read_metrics(self.run)
        report.heading("Training", f"{self.step:,} steps; the best by validation loss is step {self.best['step']:,}")
        report.figure(curves(lines, self.unit))
        settings = {name: value for name, value in vars(self.settings).items() if value is not None}
        report.heading("Settings", "config.yaml beside this file makes the run again")
        report.table(["setting", "value"], [[name, str(value)] for name, value in settings.items()])
        report.save(self.run)
        return report
