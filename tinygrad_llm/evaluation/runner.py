"""Running a task, and showing what came out."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tinygrad_llm.evaluation.scoring import BATCH_SIZE, checked_length, groups, score
from tinygrad_llm.evaluation.tasks import Metric, Task
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.tokenizers import Tokenizer


@dataclass(frozen=True)
class Report:
    """What came of a task: its metrics, how long it took, how many tokens were read, how many sequences lost their
    beginning to the block, and how many items are done of all."""

    task: str
    metrics: list[Metric]
    seconds: float
    tokens: int
    truncated: int
    done: int
    items: int


def evaluate(
    task: Task,
    model: LanguageModel,
    tokenizer: Tokenizer,
    batch_size: int = BATCH_SIZE,
    max_length: int | None = None,
    tell: Callable[[int], bool] = lambda items: True,
) -> Report:
    """Score a task's items, a group at a time and in their order.

    `tell` hears how many items are done, and stops by False, which leaves a report on those.

    Raises UserError for settings out of range.
    """
    max_length = checked_length(model, max_length)
    scores, tokens, truncated, start = [], 0, 0, time.perf_counter()
    for group in groups(task.requests(item, tokenizer) for item in task.items):
        requests = [request for item in group for request in item]
        lengths = [len(context) + len(continuation) - 1 for context, continuation in requests]
        found = iter(score(model, requests, batch_size, max_length))
        scores += [[next(found) for _ in item] for item in group]
        tokens += sum(min(length, max_length) for length in lengths)
        truncated += sum(length > max_length for length in lengths)
        if not tell(len(scores)):
            break
    seconds = time.perf_counter() - start
    return Report(task.name, task.metrics(scores), seconds, tokens, truncated, len(scores), len(task.items))


def table(reports: list[Report]) -> Table:
    """The reports' metrics, one a row, subsets indented under what they are of."""
    table = Table(box=SIMPLE_HEAD)
    for heading, side in [("task", "left"), ("metric", "left"), ("value", "right"), ("±", "right"), ("n", "right")]:
        table.add_column(heading, justify=side, overflow="fold")
    for m in [metric for report in reports for metric in report.metrics]:
        *above, name = m.task.split("/")
        table.add_row("  " * len(above) + name, m.metric, number(m.value), number(m.stderr), f"{m.n:,}")
    return table


def number(value: float | None) -> str:
    """A number in a few characters, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.3e}"


def as_json(reports: list[Report]) -> list[dict]:
    """The reports as JSON has them; a number that it cannot hold is null."""
    results = [asdict(report) for report in reports]
    for metric in [metric for report in results for metric in report["metrics"]]:
        metric |= {name: None for name, x in metric.items() if isinstance(x, float) and not math.isfinite(x)}
    return results
