"""The settings of a run; the command line and `config.yaml` are made of them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.models import PRESETS, GPTConfig
from tinygrad_llm.optim.schedules import SHAPES

DEFAULT_PRESET = "nanogpt-cpu"
POSITIVE = (
    *("batch_size", "gradient_accumulation_steps", "max_iters", "learning_rate"),
    *("eval_interval", "eval_iters", "log_interval", "checkpoint_interval"),
)
NOT_NEGATIVE = ("min_lr", "warmup_iters", "weight_decay", "grad_clip", "sample_length", "seed")


@dataclass(frozen=True)
class LoopConfig:
    """What every run has, whatever it trains.

    Args:
        data: what to train on
        out: the run folder; one in runs/ that tells of the data and the model, with a number if that exists
        batch_size: examples in a micro-batch
        gradient_accumulation_steps: micro-batches whose gradients make one step
        max_iters: steps
        learning_rate: the highest learning rate
        min_lr: the learning rate at the end of the decay
        warmup_iters: steps in which the learning rate rises
        lr_decay_iters: the step at which min_lr is reached; max_iters unless given
        schedule: how the learning rate falls from learning_rate to min_lr
        beta1: AdamW's decay of the mean of the gradients
        beta2: AdamW's decay of the mean of their squares
        weight_decay: of matrices and embeddings; biases and norms have none
        grad_clip: the largest norm of the gradient, beyond which it is scaled down; 0 for no limit
        eval_interval: steps between evaluations
        log_interval: steps between lines in metrics.jsonl; on a GPU, between readings of the loss
        checkpoint_interval: steps between checkpoints; the best and the last two are kept
        seed: fixes the first weights, the order of the data, dropout and the samples
        dtype: the numbers to compute with
        device: cpu, or cuda, cuda:1, … for a GPU
        precision: of matrix products on a GPU: float32; or by tensor cores tf32, bfloat16 or float16, summed in float32
        kernels: kernel sets by preference, with commas between them; numba where it is installed
        threads: cores to use; all unless given
    """

    data: str = ""
    out: str | None = None
    batch_size: int = 12
    gradient_accumulation_steps: int = 1
    max_iters: int = 2000
    learning_rate: float = 1e-3
    min_lr: float = 1e-4
    warmup_iters: int = 100
    lr_decay_iters: int | None = None
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_interval: int = 250
    log_interval: int = 10
    checkpoint_interval: int = 250
    seed: int = 1337
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    kernels: str | None = None
    threads: int | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if name in POSITIVE and value is not None and not value > 0:
                raise UserError(f"{name} must be more than 0, not {value}")
            if name in NOT_NEGATIVE and not value >= 0:
                raise UserError(f"{name} must not be negative, as {value} is")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        if self.schedule not in SHAPES:
            raise UserError(f"schedule must be one of {', '.join(SHAPES)}, not {self.schedule!r}")
        if self.dtype not in ("float32", "float64"):
            raise UserError(f"dtype must be float32 or float64, not {self.dtype!r}")
        if self.min_lr > self.learning_rate and self.schedule != "constant":
            raise UserError(f"min_lr {self.min_lr} is above learning_rate {self.learning_rate}: lower it as well")


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """Everything that decides a run, so that the same settings give the same weights on the same machine.

    Args:
        data: a text file, a folder of .txt and .md files, or a name: python-docs or shakespeare
        tokenizer: char, byte, word or bpe to train one on the data; or a tokenizer's folder, file or name, such as gpt2
        tokenizer_vocab_size: how many tokens a bpe or word tokenizer shall learn
        val_fraction: the share at the end of the text that only measures and never trains
        preset: the shape of the model: gpt2, gpt2-medium, gpt2-large, gpt2-xl, nanogpt-cpu, nanogpt-gpu or tiny
        model: the shape in detail, where it shall differ from the preset
        batch_size: sequences in a micro-batch, each of model.block_size tokens
        eval_interval: steps between evaluations, each with a sample of text
        eval_iters: batches of each split in an evaluation
        sample_length: tokens in a sample
        capture: run the steps of a small model on the CPU from a record, to the same bits, without Python in between
    """

    data: str = "python-docs"
    tokenizer: str = "char"
    tokenizer_vocab_size: int | None = None
    val_fraction: float = 0.1
    preset: str = DEFAULT_PRESET
    model: GPTConfig = field(default_factory=lambda: GPTConfig(**PRESETS[DEFAULT_PRESET]))
    eval_iters: int = 20
    sample_length: int = 500
    capture: bool = True


def save_config(config: LoopConfig, run: Path) -> None:
    """Write config.yaml, from which `--config` makes the same run again."""
    settings = {name: value for name, value in asdict(config).items() if value is not None}
    write_atomic(run / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
