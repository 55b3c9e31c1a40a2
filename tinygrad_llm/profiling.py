"""Where the time of a training step goes, by operation, and how near each comes to the machine's limit.

>>> p = profile()
>>> for ids, targets in batches:
...     with p:  # a step
...         model.loss(ids, targets).backward()
...         optimizer.step()
>>> print(p.table())
>>> p.save_trace("profile.json")  # for chrome://tracing and https://ui.perfetto.dev
"""

import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tinygrad_llm import roofline
from tinygrad_llm.autograd import watch
from tinygrad_llm.files import write_atomic
from tinygrad_llm.roofline import Work, WorkCounter

REST = "tape and Python"


@dataclass
class Event:
    """An operation that ran in a step, from `start` to `end`, of which others inside it took `inner`: seconds on the
    profile's clock, which stood still for `own` seconds before."""

    phase: str
    name: str
    start: float
    end: float
    inner: float
    own: float
    work: Work

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class Step:
    """What happened in a block: all operations in the order in which they ended, and those that are in no other."""

    start: float
    end: float = 0.0
    events: list[Event] = field(default_factory=list)
    outer: list[Event] = field(default_factory=list)

    def phases(self) -> Iterator[tuple[str, float, float, list[Event]]]:
        """(phase, start, end, operations) from the step's start to its end without a gap.

        The walk back begins before its first operation, with a look at the graph, and ends after its last, with a
        gradient that a leaf receives: what lies between a backward and something else is the backward's.
        """
        runs = [(phase, list(events)) for phase, events in itertools.groupby(self.outer, lambda event: event.phase)]
        runs = runs or [("nothing", [])]
        start = self.start
        for i, (phase, events) in enumerate(runs):
            end = self.end
            if i + 1 < len(runs):
                end = runs[i + 1][1][0].start if phase == "backward" else events[-1].end
            yield phase, start, end, events
            start = end


@dataclass
class Row:
    """An operation's means over the steps: how often it ran, and by phase its seconds and the least possible ones."""

    name: str
    calls: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    limits: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class profile:
    """Watches the operations inside its block, one step of training; enter it again for the next step.

    The time that the watching itself takes is left out of every measurement.
    """

    def __init__(self):
        self.steps: list[Step] = []
        self._own = 0.0  # seconds spent in `_see`

    def __enter__(self) -> "profile":
        self._count = WorkCounter()
        self._watching = watch(self._see)
        self._watching.__enter__()
        self.steps.append(Step(self._now()))
        return self

    def __exit__(self, *exception) -> None:
        self.steps[-1].end = self._now()
        self._watching.__exit__(*exception)

    def _now(self) -> float:
        """The time on a clock that stands still in `_see`."""
        return time.perf_counter() - self._own

    def _see(self, phase: str, name: str, inputs: tuple, outputs: tuple, seconds: float) -> None:
        entered, own, inner, step = time.perf_counter(), self._own, 0.0, self.steps[-1]
        began = entered - seconds
        while step.outer and step.outer[-1].start + step.outer[-1].own >= began:  # inside this one
            own = step.outer[-1].own
            inner += step.outer.pop().seconds
        work = self._count(phase, name, inputs, outputs)
        step.outer.append(Event(phase, name, began - own, entered - self._own, inner, own, work))
        step.events.append(step.outer[-1])
        self._own += time.perf_counter() - entered

    def rows(self) -> list[Row]:
        """The operations, the longest first, and what the steps took beside them: together the mean step."""
        rows: dict[str, Row] = {}
        rest, machine = Row(REST), roofline.machine()
        for step in self.steps:
            for event in step.events:
                row = rows.setdefault(event.name, Row(event.name))
                row.calls += (event.phase != "backward") / len(self.steps)
                row.seconds[event.phase] += (event.seconds - event.inner) / len(self.steps)
                row.limits[event.phase] += machine.limit(event.work) / len(self.steps)
            for phase, start, end, events in step.phases():
                inside = sum(event.seconds for event in events)
                rest.seconds[phase] += (end - start - inside) / len(self.steps)
        return [*sorted(rows.values(), key=lambda row: -row.total), rest]

    def table(self) -> str:
        """By operation: calls a step; milliseconds forward, backward and in all, each with the share of the limit that
        they reach; and the share of the step."""
        rows, machine = self.rows(), roofline.machine()
        whole = Row("step")
        for row in rows:
            for phase in row.seconds:
                whole.seconds[phase] += row.seconds[phase]
                whole.limits[phase] += row.limits[phase]
        width = max(len(row.name) for row in rows)
        lines = [
            f"{'':{width}}  calls   forward  of limit   backward  of limit    all ms  of limit   of step",
            *(
                f"{row.name:{width}}  {f'{row.calls:.4g}' if row.calls else '':>5}  "
                f"{_cells(row, 'forward'):>18}  {_cells(row, 'backward'):>19}  {_cells(row, *row.seconds):>18}  "
                f"{_percent(row.total, whole.total):>8}"
                for row in (*rows, whole)
            ),
            "",
            f"{len(self.steps)} steps of {1e3 * whole.total:.4g} ms on average. The limit: {machine.flops / 1e9:.0f} "
            f"GFLOP/s in products and {machine.bandwidth / 1e9:.1f} GB/s in copies, on {machine.threads} threads.",
        ]
        return "\n".join(line.rstrip() for line in lines)

    def save_trace(self, path: str | os.PathLike) -> None:
        """Write the steps in Chrome's trace event format: steps, in them phases, in them operations."""
        machine = roofline.machine()
        zero = self.steps[0].start if self.steps else 0.0

        def complete(name: str, category: str, start: float, end: float, **arguments) -> dict:
            start, end = round(1e9 * (start - zero)), round(1e9 * (end - zero))  # whole nanoseconds nest as they should
            times = {"ts": start / 1e3, "dur": (end - start) / 1e3}
            return {"name": name, "cat": category, "ph": "X", **times, "pid": 1, "tid": 1, "args": arguments}

        events = []
        for i, step in enumerate(self.steps):
            events.append(complete(f"step {i}", "step", step.start, step.end))
            events += [complete(phase, "phase", start, end) for phase, start, end, _ in step.phases()]
            for event in step.events:
                arguments = event.work._asdict()
                if limit := machine.limit(event.work):
                    arguments["share of limit"] = round(limit / (event.seconds - event.inner), 3)
                events.append(complete(event.name, event.phase, event.start, event.end, **arguments))
        write_atomic(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _cells(row: Row, *phases: str) -> str:
    seconds = sum(row.seconds.get(phase, 0.0) for phase in phases)
    limit = sum(row.limits.get(phase, 0.0) for phase in phases)
    return f"{1e3 * seconds:9.3f} {_percent(limit, seconds) if limit else '':>8}" if seconds else ""


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
