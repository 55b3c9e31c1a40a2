"""Training runs: their settings, the loop, checkpoints, metrics."""

from tinygrad_llm.training.config import TrainingConfig
from tinygrad_llm.training.trainer import Trainer

__all__ = ["Trainer", "TrainingConfig"]
