"""What the tests of CUDA kernels share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def planted(tmp_path) -> Callable[[str, str, str], Path]:
    """A function that copies our .cu and .cuh files, writes `new` where one of them has `old`, and tells where."""
    from tinygrad_llm.kernels.cuda.launch import FOLDER  # not before the numbers of threads are set

    def plant(file: str, old: str, new: str) -> Path:
        for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")]:
            shutil.copy(path, tmp_path)
        text = (tmp_path / file).read_text()
        assert text.count(old) == 1
        (tmp_path / file).write_text(text.replace(old, new))
        return tmp_path / file

    return plant
