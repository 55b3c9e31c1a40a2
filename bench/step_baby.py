"""A training step of nanoGPT's GPU recipe: 6 layers, 6 heads, 384 wide, no dropout, batches of 8 × 256."""

from dataclasses import dataclass

from tinygrad_llm.bench.step import Step
from tinygrad_llm.models import PRESETS, GPTConfig


@dataclass(frozen=True)
class Race(Step):
    rounds: int = 11
    steps: int = 4

    config = GPTConfig(**PRESETS["nanogpt-gpu"] | {"vocab_size": 65, "dropout": 0.0})
    shape = (8, 256)
