"""The one training loop, of pretraining and of every fine-tuning; it stops anywhere and goes on to the same bits."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.nn import Module
from tinygrad_llm.optim import AdamW, decay_groups, learning_rate
from tinygrad_llm.profiling import profile
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.training import checkpoint
from tinygrad_llm.training.config import LoopConfig, save_config
from tinygrad_llm.training.display import Display
from tinygrad_llm.training.interrupt import Interrupt
from tinygrad_llm.training.metrics import Metrics, plot

WARM_UP = 3  # steps before those that are profiled: kernels compile in the first, and memory settles
SPLITS = {"train": "training", "val": "validation"}


class Loop:
    """Trains `model` in the folder `run`, from the newest checkpoint there if it has one.

    A subclass sets `settings`, as config.yaml is to have them, `config`, the same with what they leave open filled in,
    `model`, and `batches` (an endless iterator with state_dict and load_state_dict), then calls `begin`. It defines
    `loss`, `weight`, `measure` and `write_model`, and where they differ `tokens`, `write_sample`, `state_dict` and
    `load_state_dict`; `update` may call `optimize` several times. `step` counts the updates made so far.
    """

    settings: LoopConfig
    config: LoopConfig
    model: Module
    batches: Iterator
    unit = "nats per token"  # the loss's

    def __init__(self, run: Path):
        keep_freed_memory()
        self.run = run
        self.resumed = checkpoint.newest(run, print)
        self.step, self.best, self.val = 0, {"loss": math.inf, "step": 0}, None
        self.unread = np.zeros(2)  # tokens and seconds of the steps since a loss was read

    def loss(self, batch) -> Tensor:
        """The sum of the losses of a micro-batch."""
        raise NotImplementedError(f"{type(self).__name__} needs a loss")

    def weight(self, batch) -> float:
        """What that sum is to be divided by for the mean: how many tokens or examples it is over."""
        raise NotImplementedError(f"{type(self).__name__} needs a weight")

    def tokens(self, batch) -> int:
        """How many tokens the micro-batch has; for the speed."""
        return int(self.weight(batch))

    def measure(self) -> dict[str, dict[str, float]]:
        """What an evaluation finds, by split ("train", "val") and name. The least "loss" of "val" makes the best."""
        raise NotImplementedError(f"{type(self).__name__} needs measure")

    def write_model(self, folder: Path) -> None:
        """Write what is trained into the folder of a checkpoint."""
        raise NotImplementedError(f"{type(self).__name__} needs write_model")

    def write_sample(self) -> None:
        """Leave an example of what the model does now, after each evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model's and the optimizer's arrays; plain enough for JSON."""
        return {
            "step": self.step,
            "val": self.val,
            "best": self.best,
            "batches": self.batches.state_dict(),
            "random": random.get_state(),
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError where the run had other data."""
        if state["data"] != self.data:
            raise UserError(f"{self.config.data} has changed since {self.resumed} was written: put back what it was")
        self.step, self.best, self.val = state["step"], state["best"], state["val"]
        self.batches.load_state_dict(state["batches"])
        random.set_state(state["random"])

    def begin(self, data: dict[str, Any]) -> None:
        """Make the optimizer of all parameters that require a gradient, and go on from the checkpoint, if there is one.

        `data` tells this data from other, in what JSON can hold.
        """
        c, self.data = self.config, data
        self.model.to(c.device)
        groups = decay_groups(self.model.parameters(), c.weight_decay)
        self.optimizer = AdamW(groups, c.learning_rate, (c.beta1, c.beta2), weight_decay=c.weight_decay)
        if self.resumed:
            self.load_state_dict(checkpoint.load(self.resumed, self.optimizer))

    @np.errstate(over="ignore", invalid="ignore")  # `check_finite` says it better
    def train(self, profiled_steps: int = 0) -> None:
        """Train up to max_iters steps, leaving metrics, samples and checkpoints in the run folder.

        So many steps, after some to warm up, are profiled: profile.txt and profile.json say where their time went.
        Raises KeyboardInterrupt after Ctrl-C, when the step is finished and saved, FloatingPointError where the
        loss or the gradient is no longer finite, and UserError for steps to profile on a GPU, or more than there are.
        """
        c, times = self.config, profile()
        if profiled_steps and c.device != "cpu":
            raise UserError("the profile is of the CPU, which hands work to a GPU and does not wait: leave it out")
        first = self.step + WARM_UP
        if profiled_steps and first + profiled_steps > c.max_iters:
            raise UserError(
                f"{profiled_steps} steps to profile after {WARM_UP} to warm up are more than the "
                f"{c.max_iters - self.step} left: raise max_iters"
            )
        save_config(self.settings, self.run)
        self.metrics = Metrics(self.run, self.step)
        try:
            with Display(self.step, c.max_iters) as self.display, Interrupt() as interrupt:
                if self.step == 0:
                    self.evaluate()
                while self.step < c.max_iters:
                    with times if 0 <= self.step - first < profiled_steps else contextlib.nullcontext():
                        self.update()
                    if times.steps and self.step == first + profiled_steps:
                        self.write_profile(times)
                    last = self.step == c.max_iters
                    if self.step % c.eval_interval == 0 or last:
                        self.evaluate()
                        self.write_sample()
                    stop = interrupt.requested
                    if self.step % c.checkpoint_interval == 0 or self.best["step"] == self.step or last or stop:
                        self.save()
                    if stop:
                        raise KeyboardInterrupt
        finally:
            self.metrics.close()
            with contextlib.suppress(UserError):  # on a full disk, which has been said
                plot(self.run, self.unit)

    def update(self) -> None:
        """One step: the gradient over all its micro-batches, weighed as `weight` says, and AdamW."""
        start = time.perf_counter()
        batches = [next(self.batches) for _ in range(self.config.gradient_accumulation_steps)]
        values = self.optimize(batches)
        self.step += 1
        log = self.step % self.config.log_interval == 0
        reads = log or self.config.device == "cpu"
        if reads:
            values = self.fetch(values, self.step)
        self.unread += [sum(self.tokens(batch) for batch in batches), time.perf_counter() - start]
        if reads:
            speed, self.unread = self.unread[0] / self.unread[1], np.zeros(2)
            self.display.update(self.step, values["loss"], self.val, speed)
        if log:
            self.metrics.log(self.step, "batch", **values, tokens_per_second=round(speed))

    def optimize(self, batches: list) -> dict[str, Any]:
        """Move the parameters by the mean loss of these micro-batches; return what is worth a line of metrics.

        On a device nobody waits for the numbers in it: `fetch` does, when they are wanted.
        """
        c = self.config
        count = sum(self.weight(batch) for batch in batches)
        self.optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            total = total + self.add_gradient(batch, 1 / count)
        norm, scale = self.optimizer.clip_grad_norm(c.grad_clip or math.inf)
        values = {"loss": total / count, "gradient_norm": norm}
        if c.device == "cpu":
            self.fetch(values, self.step + 1)
        lr = learning_rate(self.step, c.schedule, c.learning_rate, c.min_lr, c.warmup_iters, c.lr_decay_iters)
        self.optimizer.lr = lr
        self.optimizer.step(scale)
        return values | {"learning_rate": lr}

    def add_gradient(self, batch, weight: float):
        """Add `weight` times the gradient of the loss of a micro-batch, and return that loss: a number, or on a device
        an array."""
        loss = self.loss(batch)
        (loss * weight).backward()
        return loss.item() if self.config.device == "cpu" else loss.data

    def fetch(self, values: dict[str, Any], step: int) -> dict[str, float]:
        """The values of a step as numbers of the host's. Raises FloatingPointError as `check_finite`."""
        values = {name: float(value) for name, value in values.items()}
        self.check_finite("loss", values["loss"], step)
        self.check_finite("gradient's norm", values["gradient_norm"], step)
        return values

    def evaluate(self) -> None:
        """Measure how good the model is now, and show it."""
        self.display.status("evaluating")
        results = self.measure()
        for split, values in results.items():
            self.metrics.log(self.step, split, **values)
        self.val = results["val"]["loss"]
        self.check_finite("validation loss", self.val, self.step)
        better = self.step > 0 and self.val < self.best["loss"]
        if better:
            self.best = {"loss": self.val, "step": self.step}
        found = [f"{SPLITS[split]} {name} {value:.4f}" for split in results for name, value in results[split].items()]
        self.display.line(f"step {self.step:>6}   {'   '.join(found)}" + ("   best so far" if better else ""))

    def write_profile(self, times: profile) -> None:
        """Show the profile, and leave it in the run folder beside a trace of each step."""
        trace = self.run / "profile.json"
        self.display.line(f"\n{times.table()}\nStep by step: open {trace} in chrome://tracing or ui.perfetto.dev\n")
        write_atomic(self.run / "profile.txt", times.table() + "\n")
        times.save_trace(trace)

    def save(self) -> Path:
        """Write a checkpoint, then remove those that are no longer kept."""
        self.display.status("saving")
        self.check_finite("largest weight", float(np.abs(self.optimizer.data).max()), self.step)
        folder = checkpoint.save(self.run, self.write_model, self.optimizer, self.state_dict())
        checkpoint.prune(self.run, f"step-{self.best['step']:06d}")
        return folder

    def check_finite(self, name: str, value: float, step: int) -> None:
        """Raise FloatingPointError for a number that is none, so that no checkpoint is written of what made it."""
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the {name} became {value} at step {step}; the checkpoints in {self.run} are from before. "
                "Lower the learning rate, or warm up longer"
            )
