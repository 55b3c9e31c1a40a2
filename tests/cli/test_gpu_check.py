"""`tinygrad-llm gpu-check` on the emulator: one file, failures that stop nothing, nobody's name in it."""

import json
from pathlib import Path

import pytest

from tinygrad_llm import devices
from tinygrad_llm.cli import main
from tinygrad_llm.lab import gpu_check as checks


@pytest.fixture(autouse=True)
def few(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks.kernels.KernelSet, "operations", lambda self: ["gelu"])


def test_on_the_emulator_it_writes_what_came_of_every_task(capsys):
    assert main(["gpu-check", "--emulated"]) == 0
    out = capsys.readouterr().out
    assert "gelu bfloat16: passed" in out and "all passed; gpu-check.json" in out
    text = Path("gpu-check.json").read_text()
    result = json.loads(text)
    assert result["passed"] and "not run on a GPU yet" in result["note"]
    assert result["where"]["card"] == "none: the emulator" and "numpy" in result["where"]
    assert list(result["parts"]) == ["tasks"]
    tasks = result["parts"]["tasks"]["results"]
    assert list(tasks) == ["gelu float32", "gelu float16", "gelu bfloat16", "training"]
    assert 0 < tasks["gelu float32"]["errors"]["dx"] < 1e-6
    assert len(tasks["training"]["cuda"]) == 10 and tasks["training"]["error"] < 1e-4
    assert str(Path.home()) not in text and str(Path(checks.__file__).parents[2]) not in text


def test_a_task_that_fails_stops_nothing(monkeypatch):
    """One that dies, and one that says that it fails: what follows runs in a new process."""
    told = []
    found = checks.run_tasks(["gelu nonsense", "training"], True, told.append)
    assert not found["passed"]
    assert "nonsense" in found["results"]["gelu nonsense"]["error"]
    assert found["results"]["training"]["passed"]
    assert [line.partition(":")[0] for line in told] == ["  gelu nonsense", "  training"]


def test_a_part_that_fails_stops_nothing(monkeypatch):
    monkeypatch.setattr(checks, "run_tasks", lambda *_: 1 / 0)
    result = checks.gpu_check(emulated=True, tell=lambda _: None)
    assert result["parts"]["tasks"]["error"] == "ZeroDivisionError: division by zero"
    assert not json.loads(Path("gpu-check.json").read_text())["passed"]


def test_without_a_card_it_says_what_is_missing(capsys):
    if not _card():
        assert main(["gpu-check"]) == 2
        error = capsys.readouterr().err
        assert ("no GPU can be used" in error or "not installed" in error) and error.count("\n") == 1
        assert not Path("gpu-check.json").exists()


def test_compute_sanitizer_is_skipped_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(checks.shutil, "which", lambda *_, **__: None)
    assert "not installed" in checks.sanitize("memcheck", [])["skipped"]


def test_the_kernels_own_tests_run_file_by_file(tmp_path):
    assert "checkout" in checks.run_tests(tmp_path)["skipped"]
    right = 'import pytest\npytestmark = pytest.mark.usefixtures("cuda")\n@pytest.fixture\ndef cuda(): pass\n'
    right += "def test_one(): pass\ndef test_a_race(): assert False\n"
    (tmp_path / "test_cuda_right.py").write_text(right)
    (tmp_path / "test_cuda_wrong.py").write_text(right + "def test_two(): assert 1 == 2\n")
    (tmp_path / "test_cuda_compiler.py").write_text("def test_of_no_card(): assert False\n")
    found = checks.run_tests(tmp_path)
    assert not found["passed"] and {*found["results"]} == {"test_cuda_right", "test_cuda_wrong"}
    assert found["results"]["test_cuda_right"]["passed"] and not found["results"]["test_cuda_wrong"]["passed"]
    assert any("test_two - assert 1 == 2" in line for line in found["results"]["test_cuda_wrong"]["lines"])
    assert {file.stem for file in checks.TESTS.glob("test_cuda_*.py")} > {"test_cuda_norms", "test_cuda_training"}


def _card() -> bool:
    try:
        devices.cupy()
    except ValueError:
        return False
    return True
