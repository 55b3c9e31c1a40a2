"""`tinygrad-llm finetune`"""

import importlib
from pathlib import Path

from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.cli.runs import early, folder_of, place, read_yaml, resuming, stopped
from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.tuner import Finetuner

# What a task is for, and the subclass of Finetuner that does it.
TASKS = {
    "classify": ("put texts into classes", "tinygrad_llm.finetuning.classify:Classify"),
    "instruct": ("follow instructions, or hold conversations", "tinygrad_llm.finetuning.instruct:Instruct"),
    "dpo": ("give the answers that are preferred", "tinygrad_llm.finetuning.dpo:DPO"),
    "reward": ("tell good answers from others", "tinygrad_llm.finetuning.reward:Reward"),
    "ppo": ("earn rewards by its answers", "tinygrad_llm.finetuning.ppo:PPO"),
    "grpo": ("earn rewards, answers compared in groups", "tinygrad_llm.finetuning.grpo:GRPO"),
}

HELP = f"""usage: tinygrad-llm finetune TASK [--SETTING VALUE ...]

Teach a model that has been trained on text something more.

tasks:
{chr(10).join(f"  {name:<12}{text}" for name, (text, _) in TASKS.items())}

  tinygrad-llm finetune TASK --help           the settings of a task
  tinygrad-llm finetune TASK --resume RUN     go on where it stopped
"""


def run(argv: list[str]) -> int:
    name, *argv = argv or ["--help"]
    if name in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}: choose one of {', '.join(TASKS)}")
    kind, config, folder = configure(name, argv)
    if getattr(config, "sweep", None):
        from tinygrad_llm.finetuning.sweep import sweep

        print(f"\n{sweep(config, folder).summary()}\n\nIn {folder}: report.html, report.json, and the runs")
        return 0
    tuner = kind(config, folder)
    _introduce(tuner)
    try:
        tuner.train()
    except KeyboardInterrupt:
        return stopped(tuner, f"finetune {name} --resume {tuner.run}")
    report = tuner.finish()
    print(f"\n{report.summary()}\n\nIn {tuner.run}:")
    best = f"checkpoints/step-{tuner.best['step']:06d}"
    print(f"  report.html    what came of it, to look at; report.json for programs\n  {best}    the best model")
    return 0


def configure(name: str, argv: list[str]) -> tuple[type[Finetuner], FinetuneConfig, Path]:
    """The task of this name, the settings in the arguments, and the folder. Raises UserError for what does not fit."""
    module, _, attribute = TASKS[name][1].partition(":")
    kind: type[Finetuner] = getattr(importlib.import_module(module), attribute)
    argv = resuming(argv)
    read_yaml(early(argv, "--config").config)  # to say in a line what is wrong with it
    parser = Parser(f"finetune {name}", kind.description, kind.config_class)
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, from its newest checkpoint")
    settings = parser.settings(argv)
    resume = settings.pop("resume")
    config = kind.config_class(**settings)
    return kind, config, folder_of(resume, config.out, f"{Path(config.data).stem}-{name}")


def _introduce(tuner: Finetuner) -> None:
    c, trunk = tuner.config, tuner.trunk(tuner.model)
    examples = ", ".join(f"{len(part):,} {split}" for split, part in tuner.examples.items())
    print(f"data     {c.data}: {examples}{tuner.about_data()}")
    print(
        f"model    {c.model}: {type(trunk).__name__}, {trunk.config.n_layer} layers, {trunk.config.n_embd} wide; "
        f"{tuner.trained():,} numbers are trained, of {tuner.model.numel():,}"
    )
    print(f"kernels  {c.kernels}, on {place(c)}")
    done = f", from step {tuner.step}" if tuner.step else ""
    print(f"run      {tuner.run}: {c.max_iters:,} steps{done}\n", flush=True)
