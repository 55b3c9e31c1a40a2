"""How many threads there may be."""

import pytest

from tinygrad_llm import UserError, kernels
from tinygrad_llm.training.threads import set_threads


def test_the_environment_says_how_many_cores_there_are_for_numpys_pages_too(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    with kernels.use("numpy"):
        assert set_threads(None) == 1
        with pytest.raises(UserError, match=r"threads must be from 1 to 1, .* not 2"):
            set_threads(2)
