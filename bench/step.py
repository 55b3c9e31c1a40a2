"""What the races of training steps have in common: one start for all sides, their turns, and losses that must agree."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from tinygrad_llm import manual_seed
from tinygrad_llm.bench import race
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import GPT, GPTConfig

RECIPE = {"betas": (0.9, 0.99), "weight_decay": 0.1, "grad_clip": 1.0}  # nanoGPT's, for small models
COMPARED, TOLERANCE = 10, 2e-3
"""How many losses must agree, and how closely. They drift apart by rounding alone: of a gradient that is nothing else,
as that of keys' biases, AdamW makes steps as long as of others. After ten of step-baby it has been 9.5e-4."""


@dataclass(frozen=True)
class Step(race.Race):
    """Training steps, each of forward, backward, clip and AdamW, on one batch of `shape` (B, T)."""

    config = GPTConfig()
    shape = (1, 1)

    def start(self) -> dict:
        """What all sides start from: the weights, and of the steps the batches (steps, 2, B, T) and learning rates."""
        manual_seed(0)
        batch = np.random.default_rng(0).integers(0, self.config.vocab_size, (1, 2, *self.shape))
        weights = GPT(self.config).state_dict()
        return {"weights": weights, "batches": batch, "lr": [1e-3], "evaluation": [], "eval_interval": 0, "target": 0.0}

    def prepare(self, folder: Path) -> None:
        """Write what the workers read."""
        start = {"config": asdict(self.config), **RECIPE, **self.start()}
        np.savez(folder / "weights.npz", **start.pop("weights"))
        for name in ("batches", "evaluation"):
            np.save(folder / f"{name}.npy", np.array(start.pop(name), np.uint16))
        (folder / "settings.json").write_text(json.dumps(start))

    def run(self) -> dict:
        sides, skipped = self.available()
        threads = self.cores()
        rounds: list[dict[str, dict]] = []
        console = Console(stderr=True)
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            self.prepare(folder := Path(name))
            turn = self.turns(sides, folder, threads, stack)
            warm = [side for side in sides if not side.endswith("-cold")]
            first = {side: turn(side, min(self.steps, COMPARED)) for side in warm}  # compiles, and fills the caches
            for i in track(range(self.rounds), self.name, console=console, disable=not console.is_terminal):
                order = sides[i % len(sides) :] + sides[: i % len(sides)]
                rounds.append({side: turn(side, self.steps) for side in order})
        compared, difference = loss_difference([first, *rounds])
        seconds = {side: [statistics.median(answers[side]["seconds"]) for answers in rounds] for side in sides}
        peaks = {side: max(answers[side]["peak_mb"] for answers in rounds) for side in sides}
        settings = {"rounds": self.rounds, "steps": self.steps, "threads": threads, **self.details(rounds)}
        settings |= {"losses_compared": compared, "loss_difference": difference, "skipped": skipped}
        return race.result(self.name, {"": race.compare(seconds, peaks)}, **settings)

    def turns(self, sides: list[str], folder: Path, threads: int, stack: ExitStack) -> Callable[[str, int], dict]:
        """A function that has a side do so many steps. A side is one process, which goes on from turn to turn."""
        workers = {side: stack.enter_context(race.Worker(side, folder, threads)) for side in sides}
        return lambda side, steps: workers[side].turn(steps)

    def details(self, rounds: list[dict[str, dict]]) -> dict:
        """What more the result shall say."""
        return {}


class FreshStep(Step):
    """A turn is a process of its own, timed from its start until the steps are done."""

    def turns(self, sides: list[str], folder: Path, threads: int, stack: ExitStack) -> Callable[[str, int], dict]:
        def turn(side: str, steps: int) -> dict:
            with tempfile.TemporaryDirectory() as empty:
                caches = {"NUMBA_CACHE_DIR": empty, "TORCHINDUCTOR_CACHE_DIR": empty}
                start = time.perf_counter()
                with race.Worker(side, folder, threads, caches if side.endswith("-cold") else {}) as worker:
                    answer = worker.turn(steps)
                    return answer | {"seconds": [time.perf_counter() - start]}

        return turn


def loss_difference(rounds: list[dict[str, dict]]) -> tuple[int, float]:
    """How many losses of each side were compared, from the first on, and the most by which they differ from those of
    the first side. Raises UserError where that is no rounding."""
    losses: dict[str, list[float]] = {}
    for answers in rounds:
        for side, answer in answers.items():
            losses.setdefault(side, []).extend(answer["losses"])
    (first, reference), *others = ((side, numbers) for side, numbers in losses.items() if numbers)
    count = min(COMPARED, len(reference), *(len(numbers) for _, numbers in others))
    difference = 0.0
    for side, numbers in others:
        apart = float(np.abs(np.subtract(numbers[:count], reference[:count])).max())
        if not apart <= TOLERANCE:
            raise UserError(f"{first} and {side} do not do the same work: their losses differ by {apart:.1e}")
        difference = max(difference, apart)
    return count, difference
