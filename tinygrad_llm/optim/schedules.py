"""The learning rate as a function of the step."""

import math

from tinygrad_llm.errors import UserError

# What is left of the way from min_lr up to lr, when the share p of the decay lies behind.
SHAPES = {
    "constant": lambda p: 1.0,
    "linear": lambda p: 1 - p,
    "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),  # Loshchilov & Hutter 2017, equation 5
}


def learning_rate(
    step: int, schedule: str, lr: float, min_lr: float = 0.0, warmup_iters: int = 0, lr_decay_iters: int = 0
) -> float:
    """The learning rate of step 0, 1, 2, …: a linear warm-up to `lr`, then the schedule down to `min_lr`.

    The steps and the formulas are nanoGPT's: step i of the warm-up has lr (i + 1) / (warmup_iters + 1), and the decay
    ends at step lr_decay_iters. Raises UserError for a schedule that is not in SHAPES.
    """
    if schedule not in SHAPES:
        raise UserError(f"schedule must be one of {', '.join(SHAPES)}, not {schedule!r}")
    if step < warmup_iters:
        return lr * (step + 1) / (warmup_iters + 1)
    past = (step - warmup_iters) / (lr_decay_iters - warmup_iters) if step < lr_decay_iters else 1.0
    return min_lr + SHAPES[schedule](past) * (lr - min_lr)
