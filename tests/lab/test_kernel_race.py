"""Races of one operation's pairs: the side of a card, which the emulator stands in for here, and who takes part."""

from importlib import import_module

import numpy as np
import pytest

from tinygrad_llm import UserError, devices, lab
from tinygrad_llm.bench import ops

race = import_module("tinygrad_llm.lab.race")  # `lab.race` is the function


def test_the_side_of_a_card_times_both_phases():
    with devices.emulated():
        call = ops.cuda("gelu", [np.ones((7, 33), np.float32), "tanh"], [True, False])
        phases = call()
        assert call().keys() == phases.keys() == {"forward", "backward"}
        assert all(seconds > 0 for seconds, _ in phases.values())
        assert ops.cuda("gelu", [np.ones(3, np.float32)], [False])().keys() == {"forward"}


def test_cuda_takes_part_where_there_is_a_card(monkeypatch):
    assert "cuda" not in race.sides("layernorm")
    monkeypatch.setattr(race, "has_card", lambda: True)
    assert "cuda" in race.sides("layernorm")
    assert race.sides(ops.UPDATE)[:2] == ("ours", "numpy")


def test_an_emulators_time_says_nothing():
    with devices.emulated():
        assert not race.has_card()


def test_a_cuda_file_cannot_race_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gelu.cu").write_text("")
    with pytest.raises(UserError, match=r"gelu.cu is CUDA's: .*kernel roofline"):
        lab.race("gelu.cu")
