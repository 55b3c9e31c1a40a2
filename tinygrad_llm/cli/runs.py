"""What the commands that make run folders share: new runs and resumed ones, and their settings' files."""

import argparse
import itertools
import sys
from pathlib import Path

import yaml

from tinygrad_llm.devices import emulating
from tinygrad_llm.errors import UserError
from tinygrad_llm.training.checkpoint import by_step
from tinygrad_llm.training.config import LoopConfig
from tinygrad_llm.training.loop import Loop


class _Early(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(message)


def early(argv: list[str], *names: str) -> argparse.Namespace:
    """What is given for some flags that decide what the others mean; None where nothing is."""
    parser = _Early(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(name)
    return parser.parse_known_args(argv)[0]


def resuming(argv: list[str]) -> list[str]:
    """The arguments, behind the settings of the run that is to be resumed, if one is."""
    run = early(argv, "--resume").resume
    if run is None:
        return argv
    if not (Path(run) / "config.yaml").is_file():
        raise UserError(f"{run} is no run folder: it has no config.yaml")
    return ["--config", str(Path(run) / "config.yaml"), *argv]


def read_yaml(path: str | None) -> dict:
    """The settings in a file. Raises UserError for one that cannot be read or is no YAML."""
    if not path:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: it has lines like `max_iters: 500`")
    return content


def folder_of(resume: str | None, out: str | None, name: str) -> Path:
    """The folder of a run: the one to resume, `out`, or runs/<name>, with a number if that exists.

    Raises UserError for a folder that holds something, and for both `resume` and `out`.
    """
    if resume and out:
        raise UserError("--resume and --out exclude each other: a run goes on in its own folder")
    if resume:
        return Path(resume)
    if out:
        folder = Path(out)
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder} exists: go on with --resume {folder}, or choose another --out")
        return folder
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(folder for folder in (Path("runs", name) for name in names) if not folder.exists())


def stopped(loop: Loop, command: str) -> int:
    """Say after Ctrl-C how to go on, and return the exit status."""
    saved = by_step(loop.run)
    state = f"{saved[-1]} is saved" if saved else "no checkpoint was due yet"
    print(f"stopped at step {loop.step}; {state}. Go on with", file=sys.stderr)
    print(f"  tinygrad-llm {command}", file=sys.stderr)
    return 130


def place(config: LoopConfig) -> str:
    """Where a run computes, in a few words."""
    if config.device == "cpu":
        return f"{config.threads} thread{'s' if config.threads > 1 else ''}"
    emulated = ", emulated on the CPU to try it, not to train" if emulating() else ""
    return f"{config.device}, products in {config.precision}{emulated}"
