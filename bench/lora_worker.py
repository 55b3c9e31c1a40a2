"""One side of the race `lora`, as `worker` has those of the other steps: `python lora_worker.py SIDE FOLDER`.

The folder holds a base and an adapter in Hugging Face's formats, settings.json and the batches.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import worker

Step = Callable[[np.ndarray, np.ndarray], float]
"""`step(ids, targets)`, which trains, and returns the loss."""


def ours(folder: Path, lr: float, grad_clip: float) -> Step:
    from tinygrad_llm.formats import load_model
    from tinygrad_llm.formats.peft import load_adapter
    from tinygrad_llm.memory import keep_freed_memory
    from tinygrad_llm.nn import lora_parameters
    from tinygrad_llm.optim import AdamW
    from tinygrad_llm.training.threads import set_threads

    set_threads(None)
    keep_freed_memory()
    model = load_model(folder / "base")
    load_adapter(model, folder / "adapter")
    model.train()
    optimizer = AdamW(lora_parameters(model), lr, weight_decay=0)

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        optimizer.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
        _, scale = optimizer.clip_grad_norm(grad_clip)
        optimizer.step(scale)
        return loss.item()

    return step


def peft(folder: Path, lr: float, grad_clip: float, compiled: bool = False) -> Step:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="sdpa")
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr, weight_decay=0, fused=True)

    def loss_of(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    run = torch.compile(loss_of) if compiled else loss_of

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        optimizer.zero_grad()
        loss = run(torch.from_numpy(ids), torch.from_numpy(targets))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, grad_clip)
        optimizer.step()
        return loss.item()

    return step


SIDES = {"ours": ours, "eager": peft, "compile": partial(peft, compiled=True)}


def training(side: str, folder: Path) -> Callable[[int], dict]:
    """A turn: `steps` steps more."""
    step = SIDES[side](folder, **json.loads((folder / "settings.json").read_text()))
    batches = np.load(folder / "batches.npy")  # (batches, 2, B, T)
    done = 0

    def turn(steps: int) -> dict:
        nonlocal done
        seconds, losses = [], []
        for _ in range(steps):
            start = time.perf_counter()
            losses.append(step(*batches[done % len(batches)]))
            seconds.append(time.perf_counter() - start)
            done += 1
        return {"seconds": seconds, "losses": losses}

    return turn


if __name__ == "__main__":
    worker.serve(training(sys.argv[1], Path(sys.argv[2])))
