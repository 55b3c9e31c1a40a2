"""The memory that a training step takes: the peak of the process, and what each layer keeps for its backward.

The peak is that of a process of its own after a few steps. What a layer keeps are the arrays that the tape holds after
the forward, each once, without the parameters: those of a model of two layers less those of a model of one. Theory says
how much that should be, in arrays of B T C floats (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, section
4.1, without the dropout masks, and without the scores, which nobody keeps who computes attention by blocks):

    2   the stream that goes into each norm; what comes out of it, 2 more, is cheap to compute again
    3   q, k and v
    1   what attention gives, which goes into a product
    4   the hidden layer before GELU; after it 4 more, unless they are computed again, which is cheap

and to those 10 add, of B T floats, each norm's mean and standard deviation, and each head's sum of exponentials.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from tinygrad_llm.activations import arrays, owner
from tinygrad_llm.bench import find, race
from tinygrad_llm.models import GPT, GPTConfig


@dataclass(frozen=True)
class Race(race.Race):
    """How to compare, and what.

    Args:
        rounds: processes of each side
        steps: steps in each
        models: which: char, baby, 124m, long, with commas between them
    """

    rounds: int = 3
    steps: int = 3
    models: str = "char,baby,124m"

    def run(self) -> dict:
        sides, skipped = self.available()
        threads, cases, console = self.cores(), {}, Console(stderr=True)
        for model in track(self.models.split(","), "models", console=console, disable=not console.is_terminal):
            contest = find(f"step-{model}")
            peaks = {side: [] for side in sides}
            with tempfile.TemporaryDirectory() as name:
                contest().prepare(folder := Path(name))
                for side in self.rounds * sides:
                    with race.Worker(side, folder, threads) as worker:
                        peaks[side].append(worker.turn(self.steps)["peak_mb"])
            cases[f"{model} peak"] = race.compare(peaks, unit="MB")
            kept = {side: a_layer(measure, contest) for side, measure in SAVED.items() if side in (*sides, "theory")}
            cases[f"{model} kept by a layer"] = race.compare({side: [x / 2**20] for side, x in kept.items()}, unit="MB")
        return race.result(self.name, cases, skipped=skipped, rounds=self.rounds, steps=self.steps, threads=threads)


def a_layer(measure, contest: type) -> int:
    """The bytes that `measure` finds for two layers, less those for one."""
    random = np.random.default_rng(0)
    batch = random.integers(0, contest.config.vocab_size, (2, *contest.shape))
    one, two = (measure(replace(contest.config, n_layer=count), *batch) for count in (1, 2))
    return two - one


def ours(config: GPTConfig, ids: np.ndarray, targets: np.ndarray) -> int:
    """The bytes of the arrays that the tape holds, without the parameters."""
    model = GPT(config)
    parameters = {id(owner(parameter.data)) for parameter in model.parameters()}
    return sum(x.nbytes for x in arrays(model.loss(ids, targets).node) if id(x) not in parameters)


def eager(config: GPTConfig, ids: np.ndarray, targets: np.ndarray) -> int:
    """The bytes of the storages that PyTorch's autograd holds, without the parameters."""
    import torch

    from tinygrad_llm.reference import gpt

    model, storages = gpt.GPT(config), {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model.loss(torch.tensor(ids), torch.tensor(targets))  # alive, so that no storage is used twice
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for address, size in storages.items() if address not in parameters) if loss.requires_grad else 0


def theory(config: GPTConfig, ids: np.ndarray, targets: np.ndarray) -> int:
    """10 B T C floats, and 4 + H for each token."""
    return config.n_layer * 4 * ids.size * (10 * config.n_embd + 4 + config.n_head)


SAVED = {"ours": ours, "eager": eager, "theory": theory}
