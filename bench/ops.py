"""Every operation at the shapes of the models that the steps race with, forward and backward, beside its limit.

What a step of each model calls is raced one operation after another, but for views, which cost next to nothing, and
what an optimizer does to the gradients: clip and AdamW. The models are those of the step races, and SmolLM2-135M with
the batch of the race `lora`: trained whole, or by adapters, or read in 4 bits, and that for a single token too.

Each kernel set takes part, PyTorch with its autograd, and as a side of its own the limit: the longer of what the flops
take at this machine's matrix peak and of what the bytes that must move take at its copy bandwidth (see
`tinygrad_llm.roofline`). The arrays are used again and again, and small ones stay in the caches, so that the limit can
be beaten where it is bandwidth.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from inspect import signature
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from tinygrad_llm import no_grad, ops, roofline, watch
from tinygrad_llm.bench import find, race
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import GPT, LanguageModel, Llama
from tinygrad_llm.nn import LoRAConfig, add_lora
from tinygrad_llm.nn.quantized import use_quantized
from tinygrad_llm.quantization import quantize

PATIENCE = 1.0  # seconds after which a turn ends, and a side of ours that needs more for a single call is out
SMOLLM2 = ("smollm2", "smollm2-lora", "smollm2-q4_1", "smollm2-q4_1-token")
MODELS = ("char", "baby", "124m", "long", *SMOLLM2)
PAUSE = 0.01  # seconds after which the threads of the side before wait no longer for more to do, and leave the cores
UPDATE = "clip_adamw"
WORKER = Path(__file__).with_name("ops_worker.py")


@dataclass(frozen=True)
class Race(race.Race):
    """How to race, and what.

    Args:
        steps: calls in a turn, forward and back; fewer where they take more than a second
        models: whose shapes, with commas between them
        operations: which, with commas between them; all unless given
    """

    sides: str = "ours,numpy,eager"
    rounds: int = 7
    steps: int = 20
    models: str = ",".join(MODELS)
    operations: str | None = None

    known = ("ours", "numpy", "eager")

    def run(self) -> dict:
        sides, skipped = self.available()
        threads = self.cores()
        cases, computer = self.cases(), roofline.machine()
        comparisons, slow, console = {}, [], Console(stderr=True)
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            (folder / "cases.json").write_text(json.dumps({"steps": self.steps, "cases": [*cases.values()]}))
            enter = partial(race.Worker, folder=folder, threads=threads, script=WORKER)
            workers = {side: stack.enter_context(enter(side)) for side in sides}
            for i, case in enumerate(track(cases, "operations", console=console, disable=not console.is_terminal)):
                first = {side: worker.turn(i) for side, worker in workers.items()}  # compiles, and fills the caches
                racing = [side for side in sides if side != "numpy" or least(first[side]) < PATIENCE]
                slow += [case] if len(racing) < len(sides) else []
                rounds = []
                for turn in range(self.rounds):
                    order = racing[turn % len(racing) :] + racing[: turn % len(racing)]
                    rounds.append({})
                    for side in order:
                        time.sleep(PAUSE)
                        rounds[-1][side] = workers[side].turn(i)["seconds"]
                for phase, work in first[sides[0]]["work"].items():
                    times = {side: [1e3 * statistics.median(x[side][phase]) for x in rounds] for side in racing}
                    if limit := 1e3 * computer.limit(roofline.Work(*work)):
                        times["limit"] = [limit] * self.rounds
                    comparisons[f"{case} {phase}"] = race.compare(times, unit="ms")
        if slow:
            skipped["numpy"] = f"a call takes more than {PATIENCE:g} s: {', '.join(slow)}"
        settings = {"rounds": self.rounds, "steps": self.steps, "threads": threads, "limits": asdict(computer)}
        return race.result(self.name, comparisons, skipped=skipped, **settings)

    def cases(self) -> dict[str, dict]:
        """What a step calls, by model, operation and shapes. Raises UserError for an operation that none does."""
        found = {}
        for model in self.models.split(","):
            found |= {f"{model} {label}": case for label, case in calls(model).items()}
        names = self.operations.split(",") if self.operations else {case["name"] for case in found.values()}
        if unknown := set(names) - {case["name"] for case in found.values()}:
            known = ", ".join(sorted({case["name"] for case in found.values()}))
            raise UserError(f"no step calls {', '.join(sorted(unknown))}: choose from {known}")
        return {label: case for label, case in found.items() if case["name"] in names}


@cache
def calls(name: str) -> dict[str, dict]:
    """The operations of a step by name and shapes, each with how its arrays look and which inputs want a gradient."""
    model, n_layer, shape = two_layers(name)
    trained = [p for p in model.parameters() if p.requires_grad]
    wanting = {id(p.data): p.data for p in trained}  # the arrays too: while they are here, no other has such an id
    counter, found = roofline.WorkCounter(), {}

    def see(phase: str, name: str, inputs: tuple, outputs: tuple, seconds: float) -> None:
        needs = [id(x) in wanting for x in inputs]
        if any(needs):
            wanting[id(outputs[0])] = outputs[0]
        if counter(phase, name, inputs, outputs).bytes:
            arrays = [x for x in inputs if isinstance(x, np.ndarray) and x.ndim]
            label = " ".join([name, *("x".join(map(str, x.shape)) for x in arrays)])
            looks = {"inputs": [describe(x) for x in inputs], "output": describe(outputs[0])}
            found[label] = {"name": name, "needs": needs, **looks}

    with watch(see), no_grad():
        model.loss(*np.random.default_rng(0).integers(0, model.config.vocab_size, (2, *shape)))
    if trained:
        trained += (n_layer - 2) * [p for p in model.blocks[0].parameters() if p.requires_grad]
        looks = {"inputs": [describe(p.data) for p in trained], "output": None}
        found[f"{UPDATE} {sum(p.numel() for p in trained)}"] = {"name": UPDATE, "needs": [True] * len(trained), **looks}
    return found


def two_layers(name: str) -> tuple[LanguageModel, int, tuple[int, int]]:
    """The model with two layers, how many it really has, and the shape (B, T) of a batch. What all layers call the
    second one shows: where adapters are trained, nothing before the first wants a gradient."""
    contest = find("lora" if name in SMOLLM2 else f"step-{name}")
    config = replace(contest.config, n_layer=2)
    model = Llama(config) if name in SMOLLM2 else GPT(config)
    if name == "smollm2-lora":
        add_lora(model, LoRAConfig(rank=8))
    elif name.startswith("smollm2-q4_1"):
        weights = {key: quantize(p.data, "Q4_1") for key, p in model.named_parameters() if p.ndim == 2}
        use_quantized(model.requires_grad_(False), weights)
    return model, contest.config.n_layer, (1, 1) if name.endswith("token") else contest.shape


def cases_of(operation: str, models: Iterable[str] = MODELS) -> dict[str, dict]:
    """The calls of an operation in the models' steps; if none calls it, the cases that it is verified on."""
    found = {f"{m} {label}": case for m in models for label, case in calls(m).items() if case["name"] == operation}
    return found or _verified(operation)


def _verified(operation: str) -> dict[str, dict]:
    race.require_torch(f"the cases of {operation}, which no step calls")
    from tinygrad_llm.reference import ORACLES

    if operation not in ORACLES:
        raise UserError(f"no operation is called {operation}: choose from {', '.join([*ORACLES, UPDATE])}")
    found = {}
    for i in range(len(ORACLES[operation].cases)):
        case = {"name": operation, "case": i}
        inputs = inputs_of(case)
        arrays = [x for x in inputs if isinstance(x, np.ndarray) and x.ndim]
        label = " ".join([f"case {i}", *("x".join(map(str, x.shape)) for x in arrays)])
        with no_grad():
            y = getattr(ops, operation)(*inputs)
        looks = {"inputs": [describe(x) for x in inputs], "output": describe(y.data)}
        found[label] = case | looks | {"needs": [isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in inputs]}
    return found


def inputs_of(case: dict) -> list:
    """What a call is given: the arrays of a verified case, or random ones that look as those of the model's step."""
    if "case" not in case:
        return [make(x) for x in case["inputs"]]
    from tinygrad_llm.reference import ORACLES

    oracle = ORACLES[case["name"]]
    inputs, options = oracle.cases[case["case"]].make(0)
    arguments = signature(oracle.function).bind(*inputs, **options)
    arguments.apply_defaults()
    return [x.astype(np.float32) if getattr(x, "dtype", None) == np.float64 else x for x in arguments.args]


def describe(x):
    """An array by its looks, for JSON; anything else as it is."""
    if not isinstance(x, np.ndarray | np.generic):
        return x
    high = int(x.max()) + 1 if x.dtype.kind in "iu" else 0
    return {"shape": x.shape, "dtype": x.dtype.name, "high": 60 if x.dtype == np.uint8 else high}


def make(x):
    """Random numbers that look so: whole ones below `high`, or normal ones, small enough for every softmax. Bytes are
    blocks of quantized numbers: while they are below 60, their scales, two bytes each, are finite and below 1."""
    if not isinstance(x, dict):
        return x
    random = np.random.default_rng(0)
    numbers = random.integers(0, x["high"], x["shape"]) if x["high"] else random.normal(0, 0.5, x["shape"])
    return numbers.astype(x["dtype"])


def least(answer: dict) -> float:
    """The seconds of the fastest call, forward and back."""
    return sum(min(seconds) for seconds in answer["seconds"].values())


def torch_has_cuda() -> bool:
    """Whether PyTorch can use a GPU."""
    import torch

    return torch.cuda.is_available()
