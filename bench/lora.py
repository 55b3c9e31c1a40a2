"""A step of LoRA fine-tuning beside PEFT: SmolLM2-135M with random weights, rank 8 in all layers, 4 × 128 tokens.

`eager` and `compile` are PEFT with transformers' model. Both start from the same folders, a base and an adapter.
"""

import importlib.util
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from tinygrad_llm import manual_seed
from tinygrad_llm.bench import race
from tinygrad_llm.bench.step import Step
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import save_model
from tinygrad_llm.formats.peft import save_adapter
from tinygrad_llm.models import LLAMA_PRESETS, Llama, LlamaConfig
from tinygrad_llm.nn import LoRAConfig, add_lora

WORKER = Path(__file__).with_name("lora_worker.py")


@dataclass(frozen=True)
class Race(Step):
    sides: str = "ours,eager"
    rounds: int = 5
    steps: int = 2

    known = ("ours", *race.THEIRS)
    config = LlamaConfig(**LLAMA_PRESETS["smollm2-135m"])
    shape = (4, 128)

    def available(self) -> tuple[list[str], dict[str, str]]:
        if missing := [name for name in ("transformers", "peft") if not importlib.util.find_spec(name)]:
            raise UserError(f"this race needs {missing[0]}: pip install {missing[0]}")
        return super().available()

    def prepare(self, folder: Path) -> None:
        manual_seed(0)
        model = Llama(self.config)
        save_model(model, folder / "base")
        add_lora(model, LoRAConfig(rank=8))
        save_adapter(model, folder / "adapter")
        batches = np.random.default_rng(0).integers(0, self.config.vocab_size, (4, 2, *self.shape))
        np.save(folder / "batches.npy", batches)
        (folder / "settings.json").write_text(json.dumps({"lr": 1e-3, "grad_clip": 1.0}))

    def turns(self, sides: list[str], folder: Path, threads: int, stack: ExitStack) -> Callable[[str, int], dict]:
        workers = {side: stack.enter_context(race.Worker(side, folder, threads, script=WORKER)) for side in sides}
        return lambda side, steps: workers[side].turn(steps)

    def details(self, rounds: list[dict[str, dict]]) -> dict:
        tokens = self.shape[0] * self.shape[1]
        seconds = {side: median(s for answers in rounds for s in answers[side]["seconds"]) for side in rounds[0]}
        return {"tokens_per_second": {side: tokens / s for side, s in seconds.items()}}
