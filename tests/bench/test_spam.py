"""Spam or not: the sides run on the same split, and what is found is better than a guess."""

import json
import sys

import numpy as np
import pytest

from tinygrad_llm.bench import spam
from tinygrad_llm.models import GPTConfig

NUMBERS = iter(np.random.default_rng(0).integers(10_000, 99_999, 2000))
HAM = [f"ham\tare you home? mum rang from {next(NUMBERS)}, {next(NUMBERS)}, {next(NUMBERS)}" for _ in range(400)]
SPAM = [f"spam\tWINNER! call {next(NUMBERS)} now to claim your prize" for _ in range(40)]


def test_words_and_a_gpt_on_the_same_split(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    (tmp_path / "sms-spam").mkdir()
    (tmp_path / "sms-spam" / "SMSSpamCollection").write_text("\n".join(HAM + SPAM) + "\n")
    monkeypatch.setenv("TINYGRAD_LLM_DATA", str(tmp_path))
    monkeypatch.setattr(spam, "SHAPE", GPTConfig(vocab_size=0, block_size=128, n_layer=1, n_head=1, n_embd=16))
    monkeypatch.setattr(sys, "argv", ["spam.py", "--seeds", "1", "--pretraining", "2"])
    spam.main()
    words, gpt = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(found["seed"], found["side"]) for found in (words, gpt)] == [(1, "words"), (1, "gpt")]
    for accuracy in (words["LogisticRegression"], words["MultinomialNB"], gpt["accuracy"], gpt["macro_f1"]):
        assert 0.8 < accuracy <= 1
    assert gpt["pretraining_seconds"] > 0 and gpt["seconds"] > 0 and gpt["peak_mb"] > 20
