"""Checkpoints: folders that Hugging Face opens, beside what a resumed run needs; whole, or not there.

    config.json  model.safetensors  tokenizer.json  …    the model, as `formats` writes it
    optimizer.safetensors                                AdamW's state
    trainer.json                                         step, random state, …, and the SHA-256 of every other file

A checkpoint is written under a temporary name and renamed, so that a kill at any moment leaves the one before.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tinygrad_llm.data.sources import sha256
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import replacing
from tinygrad_llm.formats.safetensors import read_arrays, save_arrays
from tinygrad_llm.optim import Optimizer

STATE = "trainer.json"


def save(run: Path, write_model: Callable[[Path], None], optimizer: Optimizer, state: dict) -> Path:
    """Write the checkpoint of state["step"] in the run folder and return its path. Raises UserError if it cannot.

    `write_model` puts the model's files into the folder that it is given.
    """
    folder = run / "checkpoints" / f"step-{state['step']:06d}"
    remove(folder)  # a damaged one, or it would have been resumed from
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_model(temporary)
        save_arrays(optimizer.state_dict(), temporary / "optimizer.safetensors")
        files = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        (temporary / STATE).write_text(json.dumps(state | {"files": files}, indent=2) + "\n")
    return folder


def load(folder: Path, optimizer: Optimizer) -> dict:
    """Restore the optimizer and return the state of a checkpoint that is whole."""
    optimizer.load_state_dict(read_arrays(folder / "optimizer.safetensors"))
    return json.loads((folder / STATE).read_text())


def verify(folder: Path) -> None:
    """Raise UserError, naming the file, where a checkpoint is not what was saved."""
    try:
        files = json.loads((folder / STATE).read_text())["files"].items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"the checkpoint {folder} is damaged: {STATE} is missing or not whole") from error
    for name, checksum in files:
        if not (folder / name).is_file():
            raise UserError(f"the checkpoint {folder} is damaged: {name} is missing")
        if sha256(folder / name) != checksum:
            raise UserError(f"the checkpoint {folder} is damaged: {name} is not as it was saved (its SHA-256 differs)")


def newest(run: Path, tell: Callable[[str], None] = lambda line: None) -> Path | None:
    """The newest whole checkpoint of a run, None if there is none at all; `tell` hears of each that is damaged.

    Raises UserError where every checkpoint is damaged.
    """
    problem = None
    for folder in reversed(by_step(run)):
        try:
            verify(folder)
            return folder
        except UserError as error:
            problem = error
            tell(f"{error}; looking for an older one")
    if problem:
        raise UserError(f"{problem}, and no other checkpoint of {run} is whole: start again with --config")
    return None


def best(run: Path) -> Path | None:
    """The checkpoint of a run that did best on what it validates with, or the newest where that one is damaged."""
    folder = newest(run)
    if folder is None:
        return None
    found = run / "checkpoints" / f"step-{json.loads((folder / STATE).read_text())['best']['step']:06d}"
    with contextlib.suppress(UserError):
        verify(found)
        return found
    return folder


def find_model(path: str | os.PathLike) -> Path:
    """The folder of a model that `path` means: a run's newest whole checkpoint, one checkpoint, or any model folder.

    Raises UserError for a checkpoint that is damaged and a run that has none yet.
    """
    path = Path(path)
    if (path / "metrics.jsonl").exists():
        folder = newest(path)
        if folder is None:
            raise UserError(f"the run {path} has no checkpoint yet")
        return folder
    if (path / STATE).exists():
        verify(path)
    return path


def prune(run: Path, best: str | None) -> None:
    """Keep the last two checkpoints and the one called `best`; remove the others, and what kills have left behind."""
    for old in by_step(run)[:-2]:
        if old.name != best:
            remove(old)
    for leftover in (run / "checkpoints").glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def by_step(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, the newest last."""
    return sorted((run / "checkpoints").glob("step-*"), key=lambda folder: (len(folder.name), folder.name))


def remove(folder: Path) -> None:
    """Remove a checkpoint; a kill on the way never leaves half of one under its name."""
    if folder.exists():
        away = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        os.replace(folder, away)
        shutil.rmtree(away)
