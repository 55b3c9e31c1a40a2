"""`tinygrad-llm train`"""

from pathlib import Path

from jsonargparse.typing import NonNegativeInt

from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.cli.runs import early, folder_of, place, read_yaml, resuming, stopped
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import PRESETS
from tinygrad_llm.training import Trainer, TrainingConfig

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
        return stopped(trainer, f"train --resume {folder}")
    _conclude(trainer)
    return 0


def parse(argv: list[str]) -> tuple[TrainingConfig, Path, int]:
    """The settings, the run folder, and how many steps to profile. Raises UserError for what does not fit."""
    argv = resuming(argv)
    given = early(argv, "--config", "--preset")
    file = read_yaml(given.config)
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
    return config, folder_of(resume, config.out, f"{Path(config.data).stem}-{config.preset}"), profiled_steps


def _introduce(trainer: Trainer) -> None:
    c, model = trainer.config, trainer.config.model
    train, val = (len(trainer.evaluation[split].tokens) for split in ("train", "val"))
    print(f"data     {c.data}: {train:,} tokens to train on and {val:,} to validate, of {model.vocab_size:,} kinds")
    print(
        f"model    {c.preset}: {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, blocks of "
        f"{model.block_size} tokens: {trainer.model.numel():,} parameters"
    )
    print(f"kernels  {c.kernels}, on {place(c)}")
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
