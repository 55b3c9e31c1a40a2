"""docs/tutorial-locator.md is true: its Python and its commands run, and say what it shows, but for the digits."""

import re
import shlex
from pathlib import Path

import pytest

from tinygrad_llm.cli import main

TUTORIAL = (Path(__file__).parents[1] / "docs" / "tutorial-locator.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)


def rounded(text: str) -> str:
    """Numbers such as 1.2e-10 depend on the machine in their digits, and which is the nearest to its limit too."""
    return re.sub(r"\d\.\de[-+]\d\d|is the \w+ of \S+, with", "…", text)


def test_the_python_says_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "docs/tutorial-locator.md", "exec"), names)
    assert rounded(capsys.readouterr().out) == rounded("".join(blocks("text")))
    assert (tmp_path / "compare" / "report.html").is_file() and (tmp_path / "compare" / "operation.npz").is_file()


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("sh")
    for command in commands.splitlines():
        more = ["--eval_iters", "1", "--sample_length", "5"] if " train " in command else []
        assert main(shlex.split(command)[1:] + more) == 0
    assert "No difference beyond noise" in capsys.readouterr().out
