"""The training loop, and what it needs to stop anywhere and go on to the same bits."""

import contextlib
import dataclasses
import math
import time
import zlib
from pathlib import Path

import numpy as np

from tinygrad_llm import kernels, random, tokenizers
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.data.batches import Batches
from tinygrad_llm.data.sources import read_text
from tinygrad_llm.data.tokens import prepare
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.formats.huggingface import load_pretrained
from tinygrad_llm.generation import generate
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.models import GPT
from tinygrad_llm.optim import AdamW, decay_groups, learning_rate
from tinygrad_llm.profiling import profile
from tinygrad_llm.training import checkpoint
from tinygrad_llm.training.config import TrainingConfig, save_config
from tinygrad_llm.training.display import Display
from tinygrad_llm.training.interrupt import Interrupt
from tinygrad_llm.training.metrics import Metrics, plot
from tinygrad_llm.training.threads import set_threads

WARM_UP = 3  # steps before those that are profiled: kernels compile in the first, and memory settles


class Trainer:
    """Trains a GPT as `config` says, in the folder `run`, from the newest checkpoint there if it has one.

    `step` counts the updates made so far. Raises UserError, before anything is written, for settings, data and
    checkpoints that do not work or do not fit together.
    """

    def __init__(self, config: TrainingConfig, run: Path):
        self.run = run
        if config.kernels is not None:
            kernels.use(*config.kernels.split(","))
        threads = set_threads(config.threads)
        keep_freed_memory()
        resumed = checkpoint.newest(run, print)
        self.tokenizer = tokenizers.load(resumed) if resumed else make_tokenizer(config)
        model = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or self.tokenizer.vocab_size)
        if model.vocab_size < self.tokenizer.vocab_size:
            least = self.tokenizer.vocab_size
            raise UserError(f"vocab_size {model.vocab_size} is less than the tokenizer's {least}, which 0 would take")
        self.config = config = dataclasses.replace(
            config,
            model=model,
            out=None,
            lr_decay_iters=config.max_iters if config.lr_decay_iters is None else config.lr_decay_iters,
            kernels=",".join(kernels.active()),
            threads=threads,
        )
        tokens = prepare(config.data, self.tokenizer, config.val_fraction)
        self.data = {"tokens": [len(part) for part in tokens], "crc32": [zlib.crc32(part) for part in tokens]}
        c, block = config, model.block_size
        self.batches = Batches(tokens[0], block, c.batch_size, "shuffled", seed=c.seed)
        # Always the same windows, spread evenly over the split: evaluations are comparable, and disturb nothing.
        self.evaluation = {
            split: Batches(part, block, c.batch_size, "sequential", max(1, len(part) // (c.eval_iters * c.batch_size)))
            for split, part in zip(("train", "val"), tokens, strict=True)
        }
        random.manual_seed(c.seed)
        self.model = load_pretrained(resumed).train() if resumed else GPT(model).to(c.dtype)
        if (self.model.config, self.model.wte.weight.dtype) != (model, c.dtype):
            raise UserError(f"the model in {resumed} is another than the settings describe: leave those as they are")
        groups = decay_groups(self.model.parameters(), c.weight_decay)
        self.optimizer = AdamW(groups, c.learning_rate, (c.beta1, c.beta2), weight_decay=c.weight_decay)
        self.step, self.best, self.val = 0, {"loss": math.inf, "step": 0}, None
        if resumed:
            state = checkpoint.load(resumed, self.optimizer)
            if state["data"] != self.data:
                raise UserError(f"{config.data} has changed since {resumed} was written: put back the text it had")
            self.step, self.best, self.val = state["step"], state["best"], state["val"]
            self.batches.load_state_dict(state["batches"])
            random.set_state(state["random"])

    @np.errstate(over="ignore", invalid="ignore")  # `check_finite` says it better
    def train(self, profiled_steps: int = 0) -> None:
        """Train up to max_iters steps, leaving metrics, samples and checkpoints in the run folder.

        So many steps, after some to warm up, are profiled: profile.txt and profile.json say where their time went.
        Raises KeyboardInterrupt after Ctrl-C, when the step is finished and saved, FloatingPointError where the
        loss or the gradient is no longer finite, and UserError for more steps to profile than there are.
        """
        c, times = self.config, profile()
        first = self.step + WARM_UP
        if profiled_steps and first + profiled_steps > c.max_iters:
            raise UserError(
                f"{profiled_steps} steps to profile after {WARM_UP} to warm up are more than the "
                f"{c.max_iters - self.step} left: raise max_iters"
            )
        save_config(c, self.run)
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
                plot(self.run)

    def update(self) -> None:
        """One step: the gradient over all its micro-batches, weighed by tokens, and AdamW."""
        c, start = self.config, time.perf_counter()
        batches = [next(self.batches) for _ in range(c.gradient_accumulation_steps)]
        count = sum(targets.size for _, targets in batches)
        self.optimizer.zero_grad()
        total = 0.0
        for ids, targets in batches:
            loss = self.model.loss(ids, targets, reduction="sum")
            (loss / count).backward()
            total += loss.item()
        loss = total / count
        norm, scale = self.optimizer.clip_grad_norm(c.grad_clip or math.inf)
        self.check_finite("loss", loss, self.step + 1)
        self.check_finite("gradient's norm", norm, self.step + 1)
        lr = learning_rate(self.step, c.schedule, c.learning_rate, c.min_lr, c.warmup_iters, c.lr_decay_iters)
        self.optimizer.lr = lr
        self.optimizer.step(scale)
        self.step += 1
        speed = count / (time.perf_counter() - start)
        self.display.update(self.step, loss, self.val, speed)
        if self.step % c.log_interval == 0:
            self.metrics.log(
                self.step, "batch", loss=loss, learning_rate=lr, gradient_norm=norm, tokens_per_second=round(speed)
            )

    def evaluate(self) -> None:
        """Measure the loss of both splits, and show it."""
        self.display.status("evaluating")
        losses = {split: self.estimate(batches) for split, batches in self.evaluation.items()}
        for split, loss in losses.items():
            self.metrics.log(self.step, split, loss=loss)
        self.val = losses["val"]
        self.check_finite("validation loss", self.val, self.step)
        better = self.step > 0 and self.val < self.best["loss"]
        if better:
            self.best = {"loss": self.val, "step": self.step}
        self.display.line(
            f"step {self.step:>6}   training loss {losses['train']:.4f}   validation loss {self.val:.4f}"
            + ("   best so far" if better else "")
        )

    def estimate(self, batches: Batches) -> float:
        """The mean loss over the first eval_iters batches."""
        self.model.eval()
        with no_grad():
            count = min(self.config.eval_iters, len(batches))
            loss = np.mean([self.model.loss(*batches.batch(i)).item() for i in range(count)])
        self.model.train()
        return float(loss)

    def sample(self) -> str:
        """Text that the model writes now, after the first token of the training text."""
        ids = [int(self.batches.tokens[0])]
        ids += generate(self.model, ids, self.config.sample_length, temperature=0.8, seed=self.config.seed)
        return self.tokenizer.decode(ids)

    def write_sample(self) -> None:
        self.display.status("writing a sample")
        write_atomic(self.run / "samples" / f"step-{self.step:06d}.txt", self.sample() + "\n")

    def write_profile(self, times: profile) -> None:
        """Show the profile, and leave it in the run folder beside a trace of each step."""
        trace = self.run / "profile.json"
        self.display.line(f"\n{times.table()}\nStep by step: open {trace} in chrome://tracing or ui.perfetto.dev\n")
        write_atomic(self.run / "profile.txt", times.table() + "\n")
        times.save_trace(trace)

    def save(self) -> Path:
        """Write a checkpoint, then remove those that are no longer kept."""
        self.display.status("saving")
        self.check_finite("largest weight", np.abs(self.optimizer.data).max(), self.step)
        state = {
            "step": self.step,
            "val": self.val,
            "best": self.best,
            "batches": self.batches.state_dict(),
            "random": random.get_state(),
            "data": self.data,
        }
        folder = checkpoint.save(self.run, self.model, self.tokenizer, self.optimizer, state)
        checkpoint.prune(self.run, f"step-{self.best['step']:06d}")
        return folder

    def check_finite(self, name: str, value: float, step: int) -> None:
        """Raise FloatingPointError for a number that is none, so that no checkpoint is written of what made it."""
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the {name} became {value} at step {step}; the checkpoints in {self.run} are from before. "
                "Lower the learning rate, or warm up longer"
            )


def make_tokenizer(config: TrainingConfig) -> tokenizers.Tokenizer:
    """The tokenizer that the settings mean: trained on the data, or one that exists."""
    if config.tokenizer in ("char", "byte", "word", "bpe"):
        return tokenizers.train(config.tokenizer, read_text(config.data), config.tokenizer_vocab_size)
    if config.tokenizer_vocab_size is not None:
        raise UserError(f"the tokenizer {config.tokenizer} is trained already: leave tokenizer_vocab_size out")
    return tokenizers.load(config.tokenizer)
