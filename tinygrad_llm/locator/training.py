"""Two models trained side by side: after every step, each parameter of ours beside theirs.

Noise here is what becomes of the noise so far: a third model, theirs with its parameters moved by as much, is trained
too, and a parameter may be off by four times as much as there.
"""

import contextlib
from dataclasses import dataclass

from tinygrad_llm import functional as F
from tinygrad_llm import kernels
from tinygrad_llm.locator.pairing import Pairing
from tinygrad_llm.locator.runs import Side
from tinygrad_llm.locator.traces import loss_of, own, walk_back
from tinygrad_llm.optim import AdamW
from tinygrad_llm.verification import largest, relative_error


@dataclass
class Step:
    """A step: its number, from 1 on, the losses before it, and after it (parameter, error, limit) in our order."""

    number: int
    losses: tuple[float, float]
    rows: list[tuple[str, float, float]]


def train(sides: list[Side], pairing: Pairing, floor: float, noise: float, steps: int, optimizers) -> list[Step]:
    """Up to `steps` steps on the batch; ends with the first in which a parameter differs."""
    ours, theirs = sides
    makers = optimizers or (None, None)
    companion = Runner(theirs, theirs.copy(noise), makers[1])
    runners = [Runner(ours, ours.model, makers[0]), Runner(theirs, theirs.model, makers[1])]
    beside = Pairing(theirs.model, companion.model)
    found = []
    for number in range(1, steps + 1):
        losses = tuple(runner.step() for runner in runners)
        companion.step()
        room = {}
        for layer in beside.ours:
            for name in layer.parameters:
                x, y = layer.array(name), beside.parameter(layer.name, name)
                room[f"{layer.name}.{name}"] = relative_error(y, x, largest(x))
        most = max(room.values())
        rows = []
        for layer in pairing.ours:
            for name in layer.parameters:
                x, y = layer.array(name), pairing.parameter(layer.name, name)
                if y is not None:
                    error = relative_error(x, y, largest(y))
                    rows.append((f"{layer.name}.{name}", error, 4 * most + floor))
        found.append(Step(number, losses, rows))
        if any(error > limit for _, error, limit in rows):
            break
    return found


class Runner:
    """A model with its optimizer."""

    def __init__(self, side: Side, model, make):
        self.side, self.model = side, model
        parameters = list(model.parameters())
        if make:
            self.optimizer = make(parameters)
        else:
            self.optimizer = (side.torch.optim.AdamW if side.torch else AdamW)(parameters)

    def step(self) -> float:
        """Forward, backward, update; returns the loss, or the sum of the result."""
        side, torch = self.side, self.side.torch
        self.optimizer.zero_grad()
        with kernels.use(*side.kernel_sets) if side.kernel_sets else contextlib.nullcontext():
            loss = loss_of(self.model, side.batch, torch.nn.functional if torch else F, own(self.model, torch))
            walk_back(loss, torch)
            self.optimizer.step()
        return loss.sum().item()
