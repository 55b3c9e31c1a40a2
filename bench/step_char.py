"""A training step of nanoGPT's CPU recipe: 4 layers, 4 heads, 128 wide, batches of 12 × 64 characters."""

from dataclasses import dataclass

from tinygrad_llm.bench.step import Step
from tinygrad_llm.models import PRESETS, GPTConfig


@dataclass(frozen=True)
class Race(Step):
    rounds: int = 15
    steps: int = 10

    config = GPTConfig(**PRESETS["nanogpt-cpu"] | {"vocab_size": 65})
    shape = (12, 64)
