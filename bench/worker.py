"""One side of a race in a process of its own, which is started by `python worker.py SIDE FOLDER`.

The folder holds what all sides start from: settings.json, the first weights and the batches. A line of input says how
many steps to do, and a line of output what they took. PyTorch's sides import nothing of ours but their model, and that
by its path, so that neither their start nor their memory pays for this library.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

Functions = tuple[Callable[..., float], Callable[..., float]]
"""`step(ids, targets, lr)`, which trains, and `evaluate(ids, targets)`, which does not; both return the loss."""


def ours(settings: dict, weights: Mapping[str, np.ndarray], kernel_set: str | None = None) -> Functions:
    from tinygrad_llm import kernels, no_grad
    from tinygrad_llm.capture import Captured
    from tinygrad_llm.memory import keep_freed_memory
    from tinygrad_llm.models import GPT, GPTConfig
    from tinygrad_llm.optim import AdamW, decay_groups
    from tinygrad_llm.training.threads import set_threads

    if kernel_set:
        kernels.use(kernel_set)
    set_threads(None)
    keep_freed_memory()
    model = GPT(GPTConfig(**settings["config"]))
    for name, parameter in model.named_parameters():  # one after the other: the file's arrays are in no peak
        parameter.data[...] = weights[name]
    optimizer = AdamW(decay_groups(model.parameters(), settings["weight_decay"]), betas=settings["betas"])

    captured = Captured(model.loss, model.parameters())

    def step(ids: np.ndarray, targets: np.ndarray, lr: float) -> float:
        optimizer.zero_grad()
        loss = captured(ids, targets)
        _, scale = optimizer.clip_grad_norm(settings["grad_clip"])
        optimizer.lr = lr
        optimizer.step(scale)
        return loss

    @no_grad()
    def evaluate(ids: np.ndarray, targets: np.ndarray) -> float:
        return model.loss(ids, targets).item()

    return step, evaluate


def pytorch(settings: dict, weights: Mapping[str, np.ndarray], compiled: bool = False) -> Functions:
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
    import gpt

    model = gpt.GPT(SimpleNamespace(**settings["config"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    optimizer = gpt.adamw(model, 0.0, settings["betas"], settings["weight_decay"])
    loss = torch.compile(model.loss) if compiled else model.loss

    def step(ids: np.ndarray, targets: np.ndarray, lr: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = torch.from_numpy(ids), torch.from_numpy(targets)
        return gpt.train_step(model, optimizer, *batch, settings["grad_clip"], loss)

    @torch.no_grad()
    def evaluate(ids: np.ndarray, targets: np.ndarray) -> float:
        return model.loss(torch.from_numpy(ids), torch.from_numpy(targets)).item()  # compiled, it would compile anew

    return step, evaluate


SIDES = {
    "ours": ours,
    "numpy": partial(ours, kernel_set="numpy"),
    "eager": pytorch,
    "compile": partial(pytorch, compiled=True),
}


def training(side: str, folder: Path) -> Callable[[int], dict]:
    """A turn of `side`: `steps` steps more, or fewer where an evaluation finds the loss at most settings["target"]."""
    settings = json.loads((folder / "settings.json").read_text())
    step, evaluate = SIDES[side](settings, np.load(folder / "weights.npz"))
    batches, evaluation = np.load(folder / "batches.npy"), np.load(folder / "evaluation.npy")  # (steps, 2, B, T)
    rates, interval, target = settings["lr"], settings["eval_interval"], settings["target"]
    done = 0

    def turn(steps: int) -> dict:
        nonlocal done
        seconds, losses, evaluations = [], [], []
        for remaining in reversed(range(steps)):
            ids, targets = batches[done % len(batches)].astype(np.int64)
            start = time.perf_counter()
            losses.append(step(ids, targets, rates[done % len(rates)]))
            seconds.append(time.perf_counter() - start)
            done += 1
            if len(evaluation) and (done % interval == 0 or not remaining):
                evaluations.append(float(np.mean([evaluate(*batch.astype(np.int64)) for batch in evaluation])))
                if evaluations[-1] <= target:
                    break
        return {"seconds": seconds, "losses": losses, "evaluations": evaluations}

    return turn


def only_import() -> Callable[[int], dict]:
    import tinygrad_llm  # noqa: F401

    return lambda steps: {"seconds": [], "losses": []}


def serve(turn: Callable[[int], dict]) -> None:
    """Answer each number of steps, a line, with what `turn` says of them and the peak of this process's memory."""
    for line in sys.stdin:
        print(json.dumps(turn(int(line)) | {"peak_mb": peak_mb()}), flush=True)


def peak_mb() -> float:
    """The most memory in MB that this process has held."""
    with contextlib.suppress(OSError):  # getrusage's figure would begin with that of the process that started this one
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    side, folder = sys.argv[1], Path(sys.argv[2])
    serve(only_import() if side == "import" else training(side.removesuffix("-cold"), folder))
