"""The command line. A subcommand is a module here with `run(argv) -> int`, and a line in COMMANDS."""

import importlib
import sys

from tinygrad_llm import __version__
from tinygrad_llm.errors import UserError

COMMANDS = {
    "train": "train a GPT on a text",
    "generate": "let a model continue a text",
    "chat": "talk with a model",
    "evaluate": "measure a model: perplexity, LAMBADA, BLiMP, multiple choice",
    "finetune": "teach a model something more: to classify texts, to follow instructions, to be preferred",
    "classify": "put texts into the classes that a model has learned",
    "convert": "write a model for transformers or for llama.cpp",
    "tokenizer": "train a tokenizer, or look at what one does",
    "verify": "compare every operation, forward and backward, with PyTorch",
    "mutate": "plant small mistakes in pages and kernels, and see whether verification notices",
    "explain": "one operation from its source: derivation, forward, backward, kernels, tests",
    "compare": "name the first operation in which two models differ",
    "kernel": "a lab for kernels of one's own: new, check, race, roofline",
    "gpu-check": "rerun the tests of the CUDA kernels on a real GPU, into one file",
    "bench": "race against PyTorch on the same cores",
}

HELP = f"""usage: tinygrad-llm COMMAND ...

A GPT laboratory in plain NumPy: every derivative written by hand.

commands:
{chr(10).join(f"  {name:<12}{text}" for name, text in COMMANDS.items())}

examples:
  tinygrad-llm train                          a small GPT on Python's own manual, in a few minutes
  tinygrad-llm train --data my.txt --out runs/mine
  tinygrad-llm train --resume runs/mine       go on where it stopped
  tinygrad-llm bench step-char                a training step beside PyTorch's
  tinygrad-llm COMMAND --help                 the settings of a command
"""


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand and return the exit status: 0, 1 where a run failed, 2 for a user's mistake, 130 for Ctrl-C."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"tinygrad-llm {__version__}")
        return 0
    try:
        if command not in COMMANDS:
            raise UserError(f"there is no command {command!r}: choose one of {', '.join(COMMANDS)}")
        return importlib.import_module(f"{__name__}.{command.replace('-', '_')}").run(rest)
    except UserError as error:
        return _fail(error, 2)
    except FloatingPointError as error:
        return _fail(error, 1)
    except MemoryError as error:
        return _fail(f"not enough memory: {error or 'make the model or the batch smaller'}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(message, status: int) -> int:
    print(f"tinygrad-llm: {message}", file=sys.stderr)
    return status
