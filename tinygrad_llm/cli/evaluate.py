"""`tinygrad-llm evaluate`"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinygrad_llm.cli.loading import MODEL, Loading, notice
from tinygrad_llm.cli.parsing import Parser, take
from tinygrad_llm.errors import UserError
from tinygrad_llm.evaluation import Blimp, Lambada, MultipleChoice, Perplexity, Report, evaluate
from tinygrad_llm.evaluation.runner import as_json, table
from tinygrad_llm.evaluation.scoring import BATCH_SIZE, checked_length
from tinygrad_llm.evaluation.tasks import Task
from tinygrad_llm.files import reading, write_atomic
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.tokenizers import Tokenizer
from tinygrad_llm.training.interrupt import Interrupt

DESCRIPTION = f"""Measure a model. MODEL is
{MODEL}.

tasks:
  perplexity       loss, perplexity and bits a byte of a text, through a sliding window
  lambada          the last word of a passage: accuracy and perplexity
  blimp            minimal pairs of sentences: accuracy by phenomenon
  multiple-choice  the best ending, in HellaSwag's form: accuracy

examples:
  tinygrad-llm evaluate runs/mine perplexity --text my.txt
  tinygrad-llm evaluate runs/mine lambada blimp --limit 100 --json results.json
  tinygrad-llm evaluate runs/mine multiple-choice --multiple_choice hellaswag_val.jsonl

Ctrl-C stops after the group of items in hand, and shows what is done; a second one stops at once.
"""

TASKS = ("perplexity", "lambada", "blimp", "multiple-choice")


@dataclass(frozen=True)
class Evaluation:
    """What to measure it on.

    Args:
        text: the text of perplexity
        stride: tokens that perplexity's window moves on by; half of what it sees unless given
        lambada: a JSONL file of passages; lambada/lambada_test.jsonl in $TINYGRAD_LLM_DATA unless given
        blimp: JSONL files of minimal pairs, in a folder or a zip archive; blimp/BLiMP.zip in $TINYGRAD_LLM_DATA unless
            given
        multiple_choice: a JSONL file of questions, each with ctx, endings and label
        limit: take the first so many items of each file, and of perplexity so many windows
        batch_size: how many sequences to compute at once
        max_length: tokens that the model sees at most; its block unless given
        json: a file to write the results to
    """

    text: str | None = None
    stride: int | None = None
    lambada: str | None = None
    blimp: str | None = None
    multiple_choice: str | None = None
    limit: int | None = None
    batch_size: int = BATCH_SIZE
    max_length: int | None = None
    json: str | None = None


def run(argv: list[str]) -> int:
    parser = Parser("evaluate", DESCRIPTION, Evaluation, Loading, positional="MODEL TASK ...")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("tasks", metavar="TASK", nargs="+", help=", ".join(TASKS))
    about = parser.settings(argv)
    settings = {name: value for name, value in about.items() if name not in ("model", "tasks")}
    c, loading = take(settings, Evaluation), take(settings, Loading)
    names = list(dict.fromkeys(about["tasks"]))
    if unknown := [name for name in names if name not in TASKS]:
        raise UserError(f"there is no task {unknown[0]!r}: choose from {', '.join(TASKS)}")
    if c.limit is not None and c.limit < 1:
        raise UserError(f"limit must be at least 1, not {c.limit}")
    model, tokenizer = loading.load(about["model"])
    tasks = [make_task(name, c, model, tokenizer) for name in names]
    with notice(), Interrupt() as interrupt:
        reports = [measure(task, c, model, tokenizer, interrupt) for task in tasks if not interrupt.requested]
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table(reports))
    for report in reports:
        print(summary(report, c.max_length or model.config.block_size))
    partial = len(reports) < len(tasks) or any(report.done < report.items for report in reports)
    if c.json is not None:
        results = {"settings": about, "partial": partial, "results": as_json(reports)}
        write_atomic(c.json, json.dumps(results, indent=2) + "\n")
    if partial:
        print("tinygrad-llm: interrupted: these results are partial", file=sys.stderr)
        return 130
    return 0


def make_task(name: str, c: Evaluation, model: LanguageModel, tokenizer: Tokenizer) -> Task:
    """The task called `name`, its files read. Raises UserError where none is given, or what is given is damaged."""
    if name == "perplexity":
        if c.text is None:
            raise UserError("perplexity needs a text: give it with --text FILE")
        with reading(c.text):
            text = Path(c.text).read_text("utf-8")
        return Perplexity(text, tokenizer, checked_length(model, c.max_length), c.stride, c.limit)
    if name == "multiple-choice":
        if c.multiple_choice is None:
            raise UserError("multiple-choice needs questions: give them with --multiple_choice FILE")
        return MultipleChoice(c.multiple_choice, c.limit)
    if name == "lambada":
        return Lambada(c.lambada or data("lambada/lambada_test.jsonl", "--lambada FILE"), c.limit)
    return Blimp(c.blimp or data("blimp/BLiMP.zip", "--blimp PATH"), c.limit)


def data(path: str, flag: str) -> Path:
    """A file in the folder of data sets. Raises UserError where there is no such folder."""
    folder = os.environ.get("TINYGRAD_LLM_DATA")
    if not folder:
        raise UserError(f"there are no items: give {flag}, or set TINYGRAD_LLM_DATA to a folder that has {path}")
    return Path(folder, path)


def measure(task: Task, c: Evaluation, model: LanguageModel, tokenizer: Tokenizer, interrupt: Interrupt) -> Report:
    """Run a task under a progress bar, until it is done or interrupted."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(task.name, total=len(task.items))

        def tell(items: int) -> bool:
            progress.update(bar, completed=items)
            return not interrupt.requested

        return evaluate(task, model, tokenizer, c.batch_size, c.max_length, tell)


def summary(report: Report, max_length: int) -> str:
    """A line on how it went."""
    line = f"{report.task}: {report.done:,} of {report.items:,} items" + " (partial)" * (report.done < report.items)
    line += f", {report.tokens:,} tokens in {report.seconds:.1f} s, {report.tokens / report.seconds:,.0f} a second"
    if report.truncated:
        line += f"; {report.truncated:,} sequences were longer than {max_length} tokens and lost their beginning"
    return line
