"""A training step on sequences so long that attention weighs: step-baby's model, batches of 2 × 1024."""

from dataclasses import dataclass, replace

from tinygrad_llm.bench import step_baby


@dataclass(frozen=True)
class Race(step_baby.Race):
    rounds: int = 11
    steps: int = 3

    config = replace(step_baby.Race.config, block_size=1024)
    shape = (2, 1024)
