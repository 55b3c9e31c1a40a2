"""`tinygrad-llm classify`"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tinygrad_llm import kernels
from tinygrad_llm.cli.loading import notice
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.errors import UserError
from tinygrad_llm.evaluation.scoring import encode
from tinygrad_llm.files import reading
from tinygrad_llm.finetuning.classify import load_run, score
from tinygrad_llm.formats.classifier import padding
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training.threads import set_threads

DESCRIPTION = """Put texts into the classes that a model has learned.

RUN is what `tinygrad-llm finetune classify` has made, or any folder of a GPT-2, Llama or Qwen2 that transformers'
AutoModelForSequenceClassification opens. Without a TEXT and without --file, each line of the standard input is one.

examples:
  tinygrad-llm classify runs/sms-spam-classify "You have won a prize" "See you at six"
  tinygrad-llm classify runs/sms-spam-classify --file inbox.txt --json
"""


@dataclass(frozen=True)
class Classifying:
    """How it is done.

    Args:
        file: a file with a text in each of its lines
        kernels: kernel sets by preference, with commas between them; numba where it is installed
        threads: cores to use; all unless given
    """

    file: str | None = None
    kernels: str | None = None
    threads: int | None = None


def run(argv: list[str]) -> int:
    parser = Parser("classify", DESCRIPTION, Classifying, positional="RUN [TEXT ...]")
    parser.add_argument("run", metavar="RUN", help="the classifier")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="a text to classify")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each text")
    settings = parser.settings(argv)
    texts = read_texts(settings["texts"], settings["file"])
    if settings["kernels"] is not None:
        kernels.use(*settings["kernels"].split(","))
    set_threads(settings["threads"])
    model, tokenizer = load_run(settings["run"])
    rows = [encode(tokenizer, text) for text in texts]
    longest = model.trunk.config.block_size
    if cut := sum(len(row) > longest for row in rows):
        print(f"{cut} texts were longer than the model's {longest} tokens and lost their end", file=sys.stderr)
    with notice():
        logits = score(model, [row[:longest] for row in rows], padding(tokenizer) or 0)
    for text, probabilities in zip(texts, Tensor(logits).softmax(-1).data.tolist(), strict=True):
        found = dict(sorted(zip(model.labels, probabilities, strict=True), key=lambda item: -item[1]))
        if settings["json"]:
            print(json.dumps({"text": text, "label": next(iter(found)), "probabilities": found}, ensure_ascii=False))
        else:
            print("  ".join(f"{label} {p:.1%}" for label, p in found.items()) + f"   {text}")
    return 0


def read_texts(texts: list[str], file: str | None) -> list[str]:
    """The texts to classify. Raises UserError where there are none, or they are given twice."""
    if texts and file is not None:
        raise UserError("TEXT and --file exclude each other")
    if not texts and file is not None:
        with reading(file):
            texts = Path(file).read_text("utf-8").split("\n")
    elif not texts:
        texts = sys.stdin.read().split("\n")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError("there is no text to classify: give one, a --file with one a line, or lines on standard input")
    return texts
