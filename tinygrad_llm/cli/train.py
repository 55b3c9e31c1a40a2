"""`tinygrad-llm train`"""

import argparse
import itertools
import sys
from pathlib import Path

import yaml
from jsonargparse.typing import NonNegativeInt

from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import PRESETS
from tinygrad_llm.training import Trainer, TrainingConfig
from tinygrad_llm.training.checkpoint import by_step

DESCRIPTION = """Train a GPT on a text.

With no settings at all: a small character-level GPT on Python's own manual, in a few minutes on two cores. The run
folder holds checkpoints, which `tinygrad-llm generate` and Hugging Face's from_pretrained open, samples, the losses as
loss.png, metrics.jsonl and TensorBoard events, and config.yaml, which reproduces the run.

examples:
  tinygrad-llm train --data shakespeare
  tinygrad-llm train --data my.txt --tokenizer bpe --tokenizer_vocab_size 1024 --out runs/mine
  tinygrad-llm train --preset tiny --model.n_layer 3 --max_iters 500
  tinygrad-llm train --config runs/mine/config.yaml --seed 2
  tinygrad-llm train --resume runs/mine
  tinygrad-llm train --profile 20
"""


def run(argv: list[str]) -> int:
    config, folder, profiled_steps = parse(argv)
    trainer = Trainer(config, folder)
    _introduce(trainer)
    try:
        trainer.train(profiled_steps)
    except KeyboardInterrupt:
        saved = by_step(folder)
        state = f"{saved[-1]} is saved" if saved else "no checkpoint was due yet"
        print(f"stopped at step {trainer.step}; {state}. Go on with", file=sys.stderr)
        print(f"  tinygrad-llm train --resume {folder}", file=sys.stderr)
        return 130
    _conclude(trainer)
    return 0


def parse(argv: list[str]) -> tuple[TrainingConfig, Path, int]:
    """The settings, the run folder, and how many steps to profile. Raises UserError for what does not fit."""
    early = _Early(add_help=False, allow_abbrev=False)
    for name in ("--resume", "--config", "--preset"):
        early.add_argument(name)
    given, _ = early.parse_known_args(argv)
    if given.resume:
        given.config = str(Path(given.resume) / "config.yaml")
        if not Path(given.config).is_file():
            raise UserError(f"{given.resume} is no run folder: it has no config.yaml")
        argv = ["--config", given.config, *argv]
    file = _read_yaml(given.config)
    preset = given.preset or file.get("preset") or TrainingConfig.preset
    if preset not in PRESETS:
        raise UserError(f"there is no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    if "model" in file and preset != file.get("preset", preset):
        raise UserError(f"--preset {preset} and the model in {given.config} exclude each other: give --model.… instead")

    parser = Parser("train", DESCRIPTION, TrainingConfig)
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, from its newest checkpoint")
    parser.add_argument(
        "--profile",
        type=NonNegativeInt,
        nargs="?",
        const=10,
        default=0,
        metavar="STEPS",
        help="show by operation where the time of so many steps goes, 10 unless given; "
        "the run folder gets profile.txt, and profile.json for chrome://tracing or ui.perfetto.dev",
    )
    parser.set_defaults({f"model.{name}": value for name, value in PRESETS[preset].items()})
    settings = parser.settings(argv)
    resume, profiled_steps = settings.pop("resume"), settings.pop("profile")
    config = TrainingConfig(**settings)
    if resume and config.out:
        raise UserError("--resume and --out exclude each other: a run goes on in its own folder")
    return config, Path(resume) if resume else _new_folder(config), profiled_steps


class _Early(argparse.ArgumentParser):
    """Finds what decides the defaults of the rest."""

    def error(self, message: str):
        raise UserError(message)


def _read_yaml(path: str | None) -> dict:
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


def _new_folder(config: TrainingConfig) -> Path:
    if config.out:
        folder = Path(config.out)
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder} exists: go on with --resume {folder}, or choose another --out")
        return folder
    name = f"{Path(config.data).stem}-{config.preset}"
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(folder for folder in (Path("runs", name) for name in names) if not folder.exists())


def _introduce(trainer: Trainer) -> None:
    c, model = trainer.config, trainer.config.model
    train, val = (len(trainer.evaluation[split].tokens) for split in ("train", "val"))
    print(f"data     {c.data}: {train:,} tokens to train on and {val:,} to validate, of {model.vocab_size:,} kinds")
    print(
        f"model    {c.preset}: {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, blocks of "
        f"{model.block_size} tokens: {trainer.model.numel():,} parameters"
    )
    print(f"kernels  {c.kernels}, on {c.threads} thread{'s' if c.threads > 1 else ''}")
    done = f", from step {trainer.step}" if trainer.step else ""
    print(f"run      {trainer.run}: {c.max_iters:,} steps{done}\n", flush=True)


def _conclude(trainer: Trainer) -> None:
    run = trainer.run
    print(f"\nA sample of what it writes now:\n\n{trainer.sample()}\n")
    print(f"In {run}:")
    best = trainer.best["step"]
    print(f"  checkpoints/step-{trainer.step:06d}   the model; the best by validation loss is step-{best:06d}")
    print("  loss.png  metrics.jsonl  samples/  config.yaml\n")
    print(f"Let it write more:\n  tinygrad-llm generate {run}")
