"""The tests of the CUDA kernels once more, on a real GPU, into one file: for whoever has a card.

Nothing here has run on a GPU yet: what the project says of its kernels comes from a compiler and an emulator.

Every task runs in a process of its own, `python -m tinygrad_llm.lab.gpu_check TASK …`, since a kernel that goes wrong
leaves a GPU's context unusable: the next task begins with a fresh one.
"""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tinygrad_llm import devices, kernels, manual_seed, verification
from tinygrad_llm.files import write_atomic
from tinygrad_llm.lab.race import race, sides
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW, decay_groups

TESTS = Path(__file__).parents[2] / "tests" / "kernels"
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
STEPS, TOLERANCE = 10, 1e-4  # of the losses of a tiny GPT, relative to the CPU's
LINES = 20  # of what a tool says, or of failures, that are kept
FAILED = 3  # the status of a process whose last task failed
PACKAGES = ("tinygrad-llm", "numpy", "numba", "cupy-cuda12x", "cupy-cuda13x", "torch")
NOT_RUN = "not run on a GPU yet by its authors: every result that is sent in is the first of its kind"


def gpu_check(out: str | Path = "gpu-check.json", emulated: bool = False, tell: Callable = print) -> dict:
    """Run everything, write what came of it to `out` after each part, and return it; `passed` is in it.

    Values in every dtype against PyTorch, ten steps of a tiny GPT beside the CPU's, the kernels' own tests in a
    checkout of the source, NVIDIA's compute-sanitizer where it is installed, then races; on the emulator the first
    two. A failure stops nothing. The file names the card, its driver and versions, and no person, machine or path.
    Raises UserError where no GPU can be used.
    """
    with devices.emulated() if emulated else contextlib.nullcontext():
        result = {"passed": True, "note": NOT_RUN, "where": where(emulated), "parts": {}}
    operations = kernels.KernelSet("cuda").operations()
    operations = [name for name in verification.operations() if name in operations]
    tasks = [f"{name} {dtype}" for name in operations for dtype in verification.dtypes("cuda")] + ["training"]
    parts = {"tasks": lambda: run_tasks(tasks, emulated, tell)}
    if not emulated:
        parts |= {"tests": run_tests} | {tool: partial(sanitize, tool, tasks) for tool in TOOLS}
        parts |= {"races": lambda: {name: races(name) for name in operations}}
    for part, run in parts.items():
        tell(f"{part} …")
        start = time.perf_counter()
        try:
            found = run()
        except Exception as error:  # whatever it is, the rest runs
            found = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        result["parts"][part] = found | {"seconds": round(time.perf_counter() - start, 1)}
        result["passed"] &= found.get("passed", True)
        write_atomic(out, without_paths(json.dumps(result, indent=1)) + "\n")
    return result


def where(emulated: bool) -> dict:
    """The card, its driver and the versions. Raises UserError where no GPU can be used."""
    cp = devices.cupy()
    found = {"date": date.today().isoformat(), "python": platform.python_version(), "system": platform.system()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if emulated:
        return found | {"card": "none: the emulator"}
    runtime, properties = cp.cuda.runtime, cp.cuda.runtime.getDeviceProperties(0)
    return found | {
        "card": properties["name"].decode(),
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "memory": properties["totalGlobalMem"],
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
    }


def run_tasks(tasks: list[str], emulated: bool, tell: Callable) -> dict:
    """What each task says. One that fails ends its process, and the next begins in another."""
    found, left = {}, list(tasks)
    environment = os.environ | ({"TINYGRAD_LLM_CUDA": "emulator"} if emulated else {})
    while left:
        command = [sys.executable, "-m", "tinygrad_llm.lab.gpu_check", *left]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            for line in process.stdout:
                found[left[0]] = json.loads(line)
                tell(f"  {left[0]}: {'passed' if found[left[0]]['passed'] else 'FAILED'}")
                del left[0]
            errors = process.stderr.read()
        if left and process.returncode != FAILED:
            error = errors.strip().rpartition("\n")[2] or f"ended with status {process.returncode}"
            found[left[0]] = {"passed": False, "error": error}
            tell(f"  {left[0]}: FAILED, {error}")
            del left[0]
    return {"passed": all(task["passed"] for task in found.values()), "results": found}


def run_tests(folder: Path = TESTS) -> dict:
    """The kernels' own tests: ladders, arrays anywhere in memory, the same bits in every run, dropout's mask, AdamW."""
    files = [file for file in sorted(folder.glob("test_cuda_*.py")) if 'usefixtures("cuda")' in file.read_text()]
    if not files or not find_spec("pytest"):
        return {"skipped": "these are in a checkout of the source, after pip install -e '.[test]'"}
    found = {}
    for file in files:
        command = [sys.executable, "-m", "pytest", "-q", "-rf", "-k", "not race", file]  # races are the emulator's
        result = subprocess.run(command, capture_output=True, text=True)
        lines = result.stdout.splitlines() or result.stderr.splitlines()
        found[file.stem] = {"passed": result.returncode == 0, "lines": lines[-LINES:]}
    return {"passed": all(each["passed"] for each in found.values()), "results": found}


def sanitize(tool: str, tasks: list[str]) -> dict:
    """The same tasks under one of compute-sanitizer's tools; without its pool, CuPy allocates what the tool can see."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if not program:
        return {"skipped": "compute-sanitizer is not installed: it comes with the CUDA toolkit"}
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "tinygrad_llm.lab.gpu_check"]
    result = subprocess.run([*command, "--no-pool", *tasks], capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith("=========")]
    return {"passed": result.returncode == 0, "lines": lines[:LINES] + lines[-1:]}


def races(operation: str) -> dict:
    """Ours on the GPU beside PyTorch's, or beside the CPU where PyTorch has no CUDA, at the shapes of two models."""
    on_card = [side for side in sides(operation) if side.endswith("cuda")]
    try:
        return race(operation, sides=",".join([*on_card, "numpy"][:2]), models="124m,smollm2")
    except Exception as error:  # the other operations race all the same
        return {"error": f"{type(error).__name__}: {error}"}


def run_task(name: str) -> dict:
    """A comparison of an operation in a dtype, or the ten steps."""
    if name == "training":
        here, there = losses("cpu"), losses("cuda")
        error = max(abs(a - b) / abs(a) for a, b in zip(here, there, strict=True))
        return {"passed": error <= TOLERANCE, "cpu": here, "cuda": there, "error": error}
    operation, dtype = name.split()
    comparison = verification.compare(operation, "cuda", dtype)
    return {
        "passed": comparison.passed,
        "cases": comparison.cases,
        "errors": comparison.largest,
        "failures": comparison.failures[:LINES],
    }


def losses(device: str) -> list[float]:
    """Those of ten steps of a tiny GPT, with dropout, on one batch."""
    manual_seed(0)
    config = GPTConfig(vocab_size=65, block_size=16, n_layer=2, n_head=2, n_embd=32, dropout=0.1)
    model = GPT(config).to(device)
    batch = np.random.default_rng(0).integers(0, 65, (2, 2, 16))
    ids, targets = (devices.to_device(x, device) for x in batch)
    optimizer = AdamW(decay_groups(model.parameters(), 0.1), lr=1e-2)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step(optimizer.clip_grad_norm(1.0)[1])
        found.append(loss.item())
    return found


def without_paths(text: str) -> str:
    """The text without the folders of this machine, which may have people's names."""
    for folder, name in ((Path(__file__).parents[2], "…"), (Path(sys.prefix), "…"), (Path.home(), "~")):
        text = text.replace(str(folder), name)
    return text


def main(arguments: list[str]) -> int:
    if arguments[0] == "--no-pool":
        arguments = arguments[1:]
        devices.cupy().cuda.set_allocator(None)
    for name in arguments:
        found = run_task(name)
        print(json.dumps(found), flush=True)
        if not found["passed"]:
            return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
