"""The settings that every fine-tuning run has; a task adds its own, and recipes are files of them."""

import re
from dataclasses import dataclass
from typing import Literal

from tinygrad_llm.errors import UserError
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.training.config import LoopConfig

Style = Literal["alpaca", "chat", "plain"]


@dataclass(frozen=True)
class FinetuneConfig(LoopConfig):
    """What to start from, and what of it is trained, on which data.

    Args:
        model: what to start from: a run folder or a checkpoint in one, a .gguf file, a Hugging Face or OpenAI folder,
            or a name on its hub
        data: the examples: a .json, .jsonl, .csv or .tsv file, or a name: sms-spam, instruction-data or
            instruction-data-with-preference
        train: which weights are trained: all, head (a new head alone), or last:N (that, the last N blocks and the
            final norm)
        lora: train adapters beside frozen weights instead, such as {rank: 8}
        quantized: keep the 8-bit and 4-bit blocks of a GGUF file, beside adapters
        epochs: passes over the training data; may be a fraction
        max_iters: steps; as many as the epochs take unless given
        max_length: the most tokens of an example, whose end is cut off; the model's block unless given
        train_fraction: the share of the examples to train on
        val_fraction: the share to validate with; the rest is the test set
        batch_size: examples in a micro-batch
        eval_interval: steps between evaluations; an epoch unless given
        checkpoint_interval: steps between checkpoints; eval_interval unless given; the best and the last two are kept
    """

    model: str = ""
    train: str = "all"
    lora: LoRAConfig | None = None
    quantized: bool = False
    epochs: float = 3.0
    max_iters: int | None = None
    max_length: int | None = None
    train_fraction: float = 0.85
    val_fraction: float = 0.05
    batch_size: int = 8
    learning_rate: float = 5e-5
    min_lr: float = 0.0
    warmup_iters: int = 10
    beta2: float = 0.999
    eval_interval: int | None = None
    log_interval: int = 1
    checkpoint_interval: int | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("model", "data"):
            if not getattr(self, name):
                raise UserError(f"there is no {name}: give --{name}")
        if not re.fullmatch(r"all|head|last:[1-9]\d*", self.train):
            raise UserError(f"train must be all, head or last:N, such as last:1, not {self.train!r}")
        if self.lora and self.train != "all":
            raise UserError(f"train {self.train} and lora exclude each other: adapters train beside frozen weights")
        if self.quantized and not self.lora:
            raise UserError("quantized weights are not trained: give adapters to train beside them, such as lora.rank")
        if not self.epochs > 0:
            raise UserError(f"epochs must be more than 0, not {self.epochs}")
        if self.max_length is not None and self.max_length < 1:
            raise UserError(f"max_length must be at least 1, not {self.max_length}")
        if not (self.train_fraction > 0 and self.val_fraction > 0 and self.train_fraction + self.val_fraction <= 1):
            raise UserError(
                "train_fraction and val_fraction must be more than 0 and together at most 1, "
                f"not {self.train_fraction} and {self.val_fraction}"
            )

    @property
    def last_blocks(self) -> int | None:
        """N of last:N; 0 for the head alone, None for all."""
        return {"all": None, "head": 0}[self.train] if ":" not in self.train else int(self.train.partition(":")[2])


@dataclass(frozen=True)
class StyleConfig(FinetuneConfig):
    """How prompts and answers are written.

    Args:
        style: chat is the model's own template, which it has if it was published for conversations; alpaca has
            headings; plain is the texts alone. chat where the model has a template, else alpaca, unless given
    """

    style: Style | None = None
