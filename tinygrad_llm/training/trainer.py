"""Pretraining: a GPT learns to continue a text."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinygrad_llm import random, tokenizers
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.capture import Captured
from tinygrad_llm.data.batches import Batches
from tinygrad_llm.data.sources import read_text
from tinygrad_llm.data.tokens import prepare
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.formats.huggingface import load_pretrained, save_pretrained
from tinygrad_llm.generation import generate
from tinygrad_llm.models import GPT
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.ahead import Ahead
from tinygrad_llm.training.compute import compute_as
from tinygrad_llm.training.config import TrainingConfig
from tinygrad_llm.training.loop import Loop

Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets (B, T)


class Trainer(Loop):
    """Trains a GPT as `config` says, in the folder `run`, from the newest checkpoint there if it has one.

    Raises UserError, before anything is written, for settings, data and checkpoints that do not work or do not fit
    together.
    """

    def __init__(self, config: TrainingConfig, run: Path):
        super().__init__(run)
        computing, resumed = compute_as(config, config.dtype), self.resumed
        self.tokenizer = tokenizers.load(resumed) if resumed else make_tokenizer(config)
        model = replace(config.model, vocab_size=config.model.vocab_size or self.tokenizer.vocab_size)
        if model.vocab_size < self.tokenizer.vocab_size:
            least = self.tokenizer.vocab_size
            raise UserError(f"vocab_size {model.vocab_size} is less than the tokenizer's {least}, which 0 would take")
        decay = config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters
        self.settings = self.config = c = replace(config, model=model, out=None, lr_decay_iters=decay, **computing)
        tokens = prepare(c.data, self.tokenizer, c.val_fraction)
        block = model.block_size
        self.batches = Batches(tokens[0], block, c.batch_size, "shuffled", seed=c.seed)
        # Always the same windows, spread evenly over the split: evaluations are comparable, and disturb nothing.
        self.evaluation = {
            split: Batches(part, block, c.batch_size, "sequential", max(1, len(part) // (c.eval_iters * c.batch_size)))
            for split, part in zip(("train", "val"), tokens, strict=True)
        }
        random.manual_seed(c.seed)
        self.model = load_pretrained(resumed).train() if resumed else GPT(model).to(c.dtype)
        if (self.model.config, self.model.wte.weight.dtype) != (model, c.dtype):
            raise UserError(f"the model in {resumed} is another than the settings describe: leave those as they are")
        if c.device != "cpu":
            self.batches = Ahead(self.batches)
        self.captured = Captured(lambda *batch: self.loss(batch), list(self.model.parameters()))
        self.begin({"tokens": [len(part) for part in tokens], "crc32": [zlib.crc32(part) for part in tokens]})

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(*batch, reduction="sum")

    def add_gradient(self, batch: Batch, weight: float):
        if self.config.device != "cpu" or not self.config.capture:
            return super().add_gradient(batch, weight)
        return self.captured(*batch, weight=weight)

    def weight(self, batch: Batch) -> int:
        return batch[1].size

    def measure(self) -> dict[str, dict[str, float]]:
        return {split: {"loss": self.estimate(batches)} for split, batches in self.evaluation.items()}

    def estimate(self, batches: Batches) -> float:
        """The mean loss over the first eval_iters batches."""
        self.model.eval()
        with no_grad():
            count = min(self.config.eval_iters, len(batches))
            losses = [self.model.loss(*batches.batch(i)).data for i in range(count)]
        self.model.train()
        return float(np.mean([float(loss) for loss in losses]))

    def sample(self) -> str:
        """Text that the model writes now, after the first token of the training text."""
        ids = [int(self.evaluation["train"].tokens[0])]
        ids += generate(self.model, ids, self.config.sample_length, temperature=0.8, seed=self.config.seed)
        return self.tokenizer.decode(ids)

    def write_sample(self) -> None:
        self.display.status("writing a sample")
        write_atomic(self.run / "samples" / f"step-{self.step:06d}.txt", self.sample() + "\n")

    def write_model(self, folder: Path) -> None:
        save_pretrained(self.model, folder, self.tokenizer)


def make_tokenizer(config: TrainingConfig) -> tokenizers.Tokenizer:
    """The tokenizer that the settings mean: trained on the data, or one that exists."""
    if config.tokenizer in ("char", "byte", "word", "bpe"):
        return tokenizers.train(config.tokenizer, read_text(config.data), config.tokenizer_vocab_size)
    if config.tokenizer_vocab_size is not None:
        raise UserError(f"the tokenizer {config.tokenizer} is trained already: leave tokenizer_vocab_size out")
    return tokenizers.load(config.tokenizer)
