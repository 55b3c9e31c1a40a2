"""`tinygrad-llm compare`"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygrad_llm import hub, tokenizers
from tinygrad_llm.cli.loading import MODEL
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import load_model
from tinygrad_llm.locator import compare
from tinygrad_llm.training.checkpoint import find_model

DESCRIPTION = f"""Run two models side by side on a text, forward and backward, and name the first operation in which
they differ beyond noise. Each model is
{MODEL}.
Writes report.html, report.json and, of an operation that differs, operation.npz. Exit status 1 if they differ.

examples:
  tinygrad-llm compare runs/mine runs/other
  tinygrad-llm compare gpt2 gpt2 --transformers true          the second as transformers computes it
"""


@dataclass(frozen=True)
class Settings:
    """How to compare.

    Args:
        text: what the models read; the first one's tokenizer encodes it
        transformers: open the second with transformers, in PyTorch
        steps: training steps to compare after that; what only one of them has is not trained
        out: the folder for the report
    """

    text: str = "The quick brown fox jumps over the lazy dog, and the dog does not mind."
    transformers: bool = False
    steps: int = 0
    out: str = "compare"


def run(argv: list[str]) -> int:
    parser = Parser("compare", DESCRIPTION, Settings, positional="OURS THEIRS")
    parser.add_argument("ours", metavar="OURS")
    parser.add_argument("theirs", metavar="THEIRS")
    settings = parser.settings(argv)
    paths = [find_model(hub.locate(settings.pop(name))) for name in ("ours", "theirs")]
    c = Settings(**settings)
    ours = load_model(paths[0], quantized=False).eval()
    theirs = open_with_transformers(paths[1]) if c.transformers else load_model(paths[1], quantized=False).eval()
    ids = np.array([tokenizers.load(paths[0]).encode(c.text)])[:, : ours.config.block_size + 1]
    if ids.size < 2:
        raise UserError(f"--text {c.text!r} is {ids.size} tokens: give at least two")
    found = compare(ours, theirs, (ids[:, :-1], ids[:, 1:]), steps=c.steps)
    found.save(c.out)
    print(found)
    print(f"see {Path(c.out) / 'report.html'}")
    return int(not found.agrees)


def open_with_transformers(path: Path):
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise UserError("--transformers needs PyTorch and transformers: pip install torch transformers") from error
    return AutoModelForCausalLM.from_pretrained(path).eval()
