"""Races of one operation's pairs: the side of a card, which the emulator stands in for here, and who takes part."""

from importlib import import_module

import numpy as np
import pytest

from tinygrad_llm import UserError, devices, lab
from tinygrad_llm.bench import ops, ops_worker
from tinygrad_llm.kernels.cuda.launch import FOLDER

race = import_module("tinygrad_llm.lab.race")  # `lab.race` is the function


def test_the_side_of_a_card_times_both_phases():
    with devices.emulated():
        call = ops_worker.cuda("gelu", [np.ones((7, 33), np.float32), "tanh"], [True, False])
        phases = call()
        assert call().keys() == phases.keys() == {"forward", "backward"}
        assert all(seconds > 0 for seconds, _ in phases.values())
        assert ops_worker.cuda("gelu", [np.ones(3, np.float32)], [False])().keys() == {"forward"}


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
    (tmp_path / "gelu.py").write_text("")
    for name in ("gelu.cu", "gelu.py"):
        with pytest.raises(UserError, match=r"gelu.cu is CUDA's, .*kernel roofline"):
            lab.race(name)


def test_on_a_card_a_cuda_file_takes_part(tmp_path, monkeypatch):
    """The emulator stands in for the card. That it is this file that is launched shows where it does not compile."""
    file, settings = tmp_path / "my_gelu.cu", {"sides": "my_gelu.cu,cuda", "models": "char"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYGRAD_LLM_CUDA", "emulator")
    monkeypatch.setattr(race, "has_card", lambda: True)
    settings |= {"rounds": 1, "steps": 1}
    file.write_text((FOLDER / "gelu.cu").read_text())
    cases = lab.race(file.name, **settings)["cases"]
    assert cases and all({*case["sides"]} == {"my_gelu.cu", "cuda"} for case in cases.values())
    file.write_text(file.read_text().replace("expf(", "no_such_function("))
    with pytest.raises(UserError, match=r"my_gelu.cu ended early: .*my_gelu.cu:\d+.*no_such_function"):
        lab.race(file.name, **settings)
