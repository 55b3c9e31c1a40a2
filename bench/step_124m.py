"""A training step of GPT-2 small: 12 layers, 12 heads, 768 wide, 50257 tokens, batches of 4 × 256 tokens."""

from dataclasses import dataclass

from tinygrad_llm.bench.step import Step
from tinygrad_llm.models import PRESETS, GPTConfig


@dataclass(frozen=True)
class Race(Step):
    rounds: int = 5
    steps: int = 2

    config = GPTConfig(**PRESETS["gpt2"])
    shape = (4, 256)
