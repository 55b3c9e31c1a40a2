"""A run small enough for tests: a page of text, one layer, a dozen steps."""

import pytest

from tinygrad_llm.models import GPTConfig
from tinygrad_llm.training import Trainer, TrainingConfig

TEXT = "".join(f"{i} bottles of milk on the wall, {i} bottles of milk;\n" for i in range(60, 0, -1))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TINYGRAD_LLM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "milk.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def config(text):
    """A function that makes a TrainingConfig with changes: to the run, or in `model` to the model."""

    def make(model=(), **changes) -> TrainingConfig:
        shape = {"vocab_size": 0, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 16, "bias": False} | dict(model)
        settings = {
            "data": str(text), "batch_size": 4, "max_iters": 12, "warmup_iters": 2, "learning_rate": 1e-2,
            "eval_interval": 4, "eval_iters": 2, "checkpoint_interval": 4, "log_interval": 1, "sample_length": 8,
        }  # fmt: skip
        return TrainingConfig(model=GPTConfig(**shape), **settings | changes)

    return make


@pytest.fixture
def train():
    """A function that trains in a folder and returns the Trainer."""

    def run(config, folder) -> Trainer:
        trainer = Trainer(config, folder)
        trainer.train()
        return trainer

    return run
