"""Optimizers over one flat buffer, and learning rate schedules."""

from tinygrad_llm.optim.adamw import Adam, AdamW
from tinygrad_llm.optim.flat import decay_groups, flatten
from tinygrad_llm.optim.optimizer import Optimizer
from tinygrad_llm.optim.schedules import learning_rate
from tinygrad_llm.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "decay_groups", "flatten", "learning_rate"]
