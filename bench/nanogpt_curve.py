"""nanoGPT's CPU recipe on Tiny Shakespeare, from its own start and with its own batches: does ours end where it did?

The first weights and every batch are drawn from PyTorch's generator in the order in which nanoGPT's train.py draws
them with its seed. From there on two models train alone: ours, in NumPy and Numba, and its twin in PyTorch. nanoGPT
itself, run on two cores, gave a validation loss of 2.4447 at step 250, 2.0528 at 1000 and 1.8857 at 2000.

    python bench/nanogpt_curve.py
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch

from tinygrad_llm import tokenizers
from tinygrad_llm.bench import step_char, worker
from tinygrad_llm.bench.step import RECIPE
from tinygrad_llm.data.sources import read_text
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import learning_rate

BATCH, EVAL_INTERVAL, EVAL_ITERS = 12, 250, 20
SCHEDULE = {"schedule": "cosine", "lr": 1e-3, "min_lr": 1e-4, "warmup_iters": 100, "lr_decay_iters": 2000}


def start(config: GPTConfig) -> dict[str, torch.Tensor]:
    """nanoGPT's first weights: PyTorch's layers draw theirs, then all are drawn anew, the residual products twice."""
    c, width = config, config.n_embd
    shapes = {"wte.weight": (c.vocab_size, width), "wpe.weight": (c.block_size, width)}
    for i in range(c.n_layer):
        shapes |= {f"h.{i}.attn.c_attn.weight": (3 * width, width), f"h.{i}.attn.c_proj.weight": (width, width)}
        shapes |= {f"h.{i}.mlp.c_fc.weight": (4 * width, width), f"h.{i}.mlp.c_proj.weight": (width, 4 * width)}
    for name, (rows, columns) in [*shapes.items(), ("lm_head.weight", shapes["wte.weight"])]:
        if name in ("wte.weight", "wpe.weight"):
            torch.nn.Embedding(rows, columns)
        else:
            torch.nn.Linear(columns, rows, bias=False)
    weights = {name: torch.empty(shape).normal_(0, 0.02) for name, shape in shapes.items()}
    weights["wte.weight"].normal_(0, 0.02)  # once more, as the head
    for name, weight in weights.items():
        if name.endswith("c_proj.weight"):
            weight.normal_(0, 0.02 / (2 * c.n_layer) ** 0.5)
    return weights


def draws(tokens: dict[str, np.ndarray], block_size: int, max_iters: int) -> Iterator[tuple[str, int, tuple]]:
    """Every batch that nanoGPT draws, in its order: (what for, step, (ids, targets)). It fetches one batch ahead."""

    def batch(split: str) -> tuple[np.ndarray, np.ndarray]:
        starts = torch.randint(len(tokens[split]) - block_size, (BATCH,)).numpy()
        at = starts[:, None] + np.arange(block_size)
        return tokens[split][at], tokens[split][at + 1]

    ahead = batch("train")
    for step in range(max_iters + 1):
        if step % EVAL_INTERVAL == 0:
            for split in ("train", "val"):
                for _ in range(EVAL_ITERS):
                    yield split, step, batch(split)
        if step < max_iters:
            now, ahead = ahead, batch("train")
            yield "step", step, now


def recording(config: GPTConfig, max_iters: int) -> tuple[dict[str, np.ndarray], list[tuple[str, int, tuple]]]:
    """The first weights of nanoGPT's run on Tiny Shakespeare, and all that it draws."""
    text = read_text("shakespeare")
    tokenizer = tokenizers.train("char", text)
    cut = int(0.9 * len(text))
    parts = {"train": text[:cut], "val": text[cut:]}
    tokens = {split: tokenizer.encode(part).astype(np.int64) for split, part in parts.items()}
    norms = {name: np.ones(config.n_embd, np.float32) for name, _ in GPT(config).named_parameters() if "ln_" in name}
    torch.manual_seed(1337)
    weights = {name: weight.numpy() for name, weight in start(config).items()}
    return weights | norms, list(draws(tokens, config.block_size, max_iters))


def curve(side: str, config: GPTConfig, weights: dict[str, np.ndarray], drawn: list[tuple]) -> list[float]:
    """The validation losses of one side, at steps 0, 250, 500, …"""
    step, evaluate = worker.SIDES[side]({"config": asdict(config), **RECIPE}, weights)
    losses: dict[int, list[float]] = {}
    for purpose, i, batch in drawn:
        if purpose == "step":
            step(*batch, learning_rate(i, **SCHEDULE))
        elif purpose == "val":
            losses.setdefault(i, []).append(evaluate(*batch))
    return [float(np.mean(values)) for values in losses.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description="nanoGPT's CPU recipe from nanoGPT's own start, beside PyTorch.")
    parser.add_argument("--max_iters", type=int, default=2000)
    config = step_char.Race.config
    start = recording(config, parser.parse_args().max_iters)
    print("step   ours  eager   validation loss, mean of 20 batches")
    for i, losses in enumerate(zip(*(curve(side, config, *start) for side in ("ours", "eager")), strict=True)):
        print("{:4}  {:.4f} {:.4f}".format(i * EVAL_INTERVAL, *losses))


if __name__ == "__main__":
    main()
