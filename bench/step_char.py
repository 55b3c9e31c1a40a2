"""step-char: a training step of nanoGPT's CPU recipe (4 layers, 4 heads, 128 wide, T 64, B 12, V 65), beside PyTorch.

Forward, backward, clip and AdamW on the same weights and the same batch.

    python bench/step_char.py            # the kernels of the default set
    python bench/step_char.py --record   # and a row in results.csv
"""

from dataclasses import replace

import numpy as np
from race import main

from tinygrad_llm import manual_seed
from tinygrad_llm.models import GPT, PRESETS, GPTConfig

CONFIG = replace(GPTConfig(**PRESETS["nanogpt-cpu"]), vocab_size=65)
BATCH = 12
LEARNING_RATE, BETAS, WEIGHT_DECAY, GRAD_CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0


def start():
    """The same model and the same batch on both sides."""
    manual_seed(0)
    ids, targets = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, BATCH, CONFIG.block_size))
    return GPT(CONFIG), ids, targets


def ours():
    from tinygrad_llm.optim import AdamW, decay_groups
    from tinygrad_llm.training.memory import keep_freed_memory
    from tinygrad_llm.training.threads import set_threads

    set_threads(None)
    keep_freed_memory()

    model, ids, targets = start()
    optimizer = AdamW(decay_groups(model.parameters(), WEIGHT_DECAY), LEARNING_RATE, BETAS)

    def step() -> float:
        loss = model.loss(ids, targets)
        optimizer.zero_grad()
        loss.backward()
        _, scale = optimizer.clip_grad_norm(GRAD_CLIP)
        optimizer.step(scale)
        return loss.item()

    return step


def pytorch_eager():
    import torch

    from tinygrad_llm.reference import gpt

    model, *batch = start()
    twin = gpt.GPT(CONFIG)
    twin.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    optimizer = gpt.adamw(twin, LEARNING_RATE, BETAS, WEIGHT_DECAY)
    ids, targets = map(torch.tensor, batch)
    return lambda: gpt.train_step(twin, optimizer, ids, targets, GRAD_CLIP)


if __name__ == "__main__":
    main("step-char", {"tinygrad-llm": ours, "torch eager": pytorch_eager})
