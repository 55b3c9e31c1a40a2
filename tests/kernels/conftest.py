"""What the tests of CUDA kernels share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def cuda():
    """The GPU, or where there is none the emulator: what `gpu-check` runs on a card."""
    from tinygrad_llm.devices import gpu_or_emulator  # not before the numbers of threads are set

    with gpu_or_emulator():
        yield


@pytest.fixture
def stand_in(cuda):
    """The emulator, wherever it is."""
    from tinygrad_llm.devices import emulated

    with emulated():
        yield


@pytest.fixture
def planted(tmp_path) -> Callable[[str, str, str], Path]:
    """A function that copies our .cu and .cuh files, writes `new` where one of them has `old`, and tells where."""
    from tinygrad_llm.kernels.cuda.launch import FOLDER

    def plant(file: str, old: str, new: str) -> Path:
        for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")]:
            shutil.copy(path, tmp_path)
        text = (tmp_path / file).read_text()
        assert text.count(old) == 1
        (tmp_path / file).write_text(text.replace(old, new))
        return tmp_path / file

    return plant
