"""docs/tutorial-kernels.md is true: its commands and its Python run, and what it shows is what they say."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tinygrad_llm.cli import main

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial-kernels.md").read_text()
SHORT = {  # appended to a command: what it does is the tutorial's, how long it takes is not
    "roofline": ["--models", "char"],
    "check my_layernorm.cu": ["--sanitize", "false"],
    "race fast_layernorm.py": ["--rounds", "1", "--steps", "1"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The root of a checkout, as far as the tutorial uses it."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "kernels").symlink_to(ROOT / "kernels")
    return folder


@pytest.mark.slow  # two minutes: seven checks
def test_the_commands_run_one_after_the_other(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert sum(" kernel check " in command for command in commands) == 7
    said = {}
    for command in commands:
        if not command.startswith("tinygrad-llm "):
            subprocess.run(command, shell=True, check=True)
            continue
        words = shlex.split(command)[1:] + next((more for part, more in SHORT.items() if part in command), [])
        status = main(words)
        said[command] = capsys.readouterr().out
        assert status == int("check race_layernorm.cu" in command), said[command]
    shown = "".join(blocks("text"))
    race = said["tinygrad-llm kernel check race_layernorm.cu"]
    for kind, place in re.findall(r"^\d+\. (race)  (\S+)", shown, re.MULTILINE):
        assert f"{kind}  {place}" in race
    first = said["tinygrad-llm kernel check my_layernorm.cu"]
    assert first.splitlines()[0] == "my_layernorm.cu: passed as layernorm"
    assert len(re.findall("race  race_layernorm.cu", shown)) >= 1


@pytest.mark.slow
def test_the_python_runs_after_that(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for block in blocks("python"):
        exec(compile(block, "docs/tutorial-kernels.md", "exec"), {})
    assert "my_layernorm.cu: passed as layernorm" in capsys.readouterr().out


def test_what_it_quotes_is_in_the_kernels():
    code = "".join(path.read_text() for path in (ROOT / "kernels" / "cuda" / "versions").glob("layernorm_*.cu"))
    code = {line.strip() for line in code.splitlines()}
    for block in blocks("cuda"):
        assert [line for line in block.splitlines() if line.strip() not in code] == []


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TUTORIAL)
    assert links and all((ROOT / "docs" / link).is_file() for link in links)
