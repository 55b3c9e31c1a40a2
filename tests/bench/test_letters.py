"""A model that is rewarded for the letter e: every method runs, and says before and after what the reward is."""

import json
import sys

import pytest

from tinygrad_llm.bench import letters
from tinygrad_llm.data import sources

SPEAKERS = [f"{rank} {name}" for rank in "ABCDEFGHIJ" for name in ("LORD", "LADY", "GUARD", "CLOWN")]
TEXT = "".join(f"{speaker}:\nThe weather here is never the same, see.\n\n" for speaker in SPEAKERS * 3)


@pytest.mark.slow  # half a minute: five runs
def test_every_method_reports_its_reward(tmp_path, monkeypatch, capsys):
    (tmp_path / "play.txt").write_text(TEXT)
    monkeypatch.setattr(sources, "_fetch", lambda *_: tmp_path / "play.txt")  # "shakespeare" is downloaded elsewhere
    monkeypatch.setattr(letters, "LENGTH", 16)
    monkeypatch.setitem(letters.ALIGNMENT, "max_new_tokens", 16)
    for settings in letters.TASKS.values():
        monkeypatch.setitem(settings, "batch_size", 8 // settings.get("group_size", 1))
    monkeypatch.setattr(sys, "argv", ["letters.py", "--pretraining", "20", "--steps", "2"])
    letters.main()
    judge, *runs = map(json.loads, capsys.readouterr().out.splitlines())
    assert judge["task"] == "reward" and 0 <= judge["accuracy"] <= 1
    assert [(run["task"], run["reward"]) for run in runs] == [
        ("ppo", "letter:e"), ("grpo", "letter:e"), ("ppo", "judge"), ("grpo", "judge"),
    ]  # fmt: skip
    for run in runs:
        test, shares = run["test"], run["share_of_letter"]
        assert test["before"]["kl"] == 0 < test["after"]["kl"]
        if run["reward"] == "letter:e":  # the reward is what is counted again in the answers
            assert test["before"]["reward"] == pytest.approx(shares["before"], abs=1e-3)
            assert test["after"]["reward"] == pytest.approx(shares["after"], abs=1e-3)
    assert any(share for run in runs for share in run["share_of_letter"].values())
    for one, other in (runs[:2], runs[2:]):  # both methods start from one model
        assert one["test"]["before"] | {"loss": 0} == other["test"]["before"] | {"loss": 0}
