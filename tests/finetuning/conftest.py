"""What the tests of fine-tuning tasks share: a model to start from, and a Ctrl-C in the middle."""

import os
import signal

import pytest

from tinygrad_llm import manual_seed
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizers import ByteTokenizer


@pytest.fixture(autouse=True)
def fast(without_pictures):
    """There are a hundred runs here."""


@pytest.fixture
def base(tmp_path, request):
    """A GPT of the test file's SHAPE that has learned nothing."""
    manual_seed(1)
    save_pretrained(GPT(GPTConfig(**request.module.SHAPE)), tmp_path / "base", ByteTokenizer())
    return tmp_path / "base"


@pytest.fixture
def interrupted(monkeypatch):
    """Train, and press Ctrl-C as the update after so many steps begins."""

    def train(loop, steps: int) -> None:
        update = loop.update

        def pressed():
            if loop.step == steps:
                os.kill(os.getpid(), signal.SIGINT)
            update()

        monkeypatch.setattr(loop, "update", pressed)
        with pytest.raises(KeyboardInterrupt):
            loop.train()

    return train
