"""What every test may use: the real data, found through TINYGRAD_LLM_DATA."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # There are as many workers as cores: threads of their own would only wait for each other. Read when NumPy loads.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # Numba has two all the same, for the tests of threads

DATA = Path(os.environ.setdefault("TINYGRAD_LLM_DATA", str(Path(__file__).parents[2] / "shared" / "data")))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; without it a test is skipped here and fails on CI."""
    if not DATA.is_dir():
        message = f"no data sets at {DATA}: set TINYGRAD_LLM_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return DATA
