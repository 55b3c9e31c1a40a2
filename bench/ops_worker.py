"""One side of the race `ops` in a process of its own: `python ops_worker.py SIDE FOLDER`.

The folder holds cases.json. A line of input says which case to compute, and a line of output what its calls took. A
side makes a function that calls the operation once, forward and back, and returns by phase the seconds and, if it is
ours, the work.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from tinygrad_llm import Tensor, devices, kernels, ops
from tinygrad_llm.bench import worker
from tinygrad_llm.bench.ops import PATIENCE, UPDATE, inputs_of
from tinygrad_llm.memory import keep_freed_memory
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim import AdamW, decay_groups
from tinygrad_llm.profiling import profile
from tinygrad_llm.training.threads import set_threads


def ours(name: str, inputs: list, needs: list[bool], kernel_set: str | None = None) -> Callable[[], dict]:
    if kernel_set:
        kernels.use("numpy" if kernel_set == "numpy" else kernels.KernelSet(kernel_set, name))
    set_threads(None)
    keep_freed_memory()
    if name == UPDATE:
        parameters = [Parameter(x) for x in inputs]
        optimizer = AdamW(decay_groups(parameters, 0.1))
        for parameter in parameters:
            parameter.accumulate_grad(parameter.data)
    else:
        pairs = zip(inputs, needs, strict=True)
        tensors = [Tensor(x, requires_grad=need) if isinstance(x, np.ndarray) else x for x, need in pairs]

    def call() -> dict:
        with profile() as p:
            if name == UPDATE:
                optimizer.step(optimizer.clip_grad_norm(1.0)[1])
            else:
                y = getattr(ops, name)(*tensors)
                if any(needs):
                    y.backward(np.ones_like(y.data))
        for x in () if name == UPDATE else tensors:
            if isinstance(x, Tensor):
                x.grad = None
        phases = {event.phase: (0.0, (0, 0)) for event in p.steps[0].events}
        for event in p.steps[0].events:
            seconds, work = phases[event.phase]
            phases[event.phase] = seconds + event.seconds, tuple(map(sum, zip(work, event.work, strict=True)))
        return phases

    return call


def cuda(name: str, inputs: list, needs: list[bool]) -> Callable[[], dict]:
    """The kernels in use on a GPU, each phase until the GPU has done it."""
    wait = devices.cupy().cuda.get_current_stream().synchronize
    arrays = [devices.to_device(x, "cuda") if isinstance(x, np.ndarray) else x for x in inputs]
    tensors = [Tensor(x, requires_grad=n) if devices.on_device(x) else x for x, n in zip(arrays, needs, strict=True)]

    def call() -> dict:
        wait()
        start = time.perf_counter()
        y = getattr(ops, name)(*tensors)
        wait()
        phases = {"forward": (time.perf_counter() - start, (0, 0))}
        if any(needs):
            dy = np.ones_like(y.data)
            wait()
            begin = time.perf_counter()
            y.backward(dy)
            wait()
            phases["backward"] = (time.perf_counter() - begin, (0, 0))
        for x in tensors:
            if isinstance(x, Tensor):
                x.grad = None
        return phases

    return call


def eager(name: str, inputs: list, needs: list[bool], device: str = "cpu") -> Callable[[], dict]:
    import torch

    from tinygrad_llm import reference
    from tinygrad_llm.reference import gpt

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    tensors = [torch.tensor(x, device=device) if isinstance(x, np.ndarray) else x for x in inputs]
    wanted = [x.requires_grad_() for x, need in zip(tensors, needs, strict=True) if need]
    if name == UPDATE:
        parameters = torch.nn.ParameterList(wanted)
        optimizer = gpt.adamw(parameters, 1e-3, (0.9, 0.999), 0.1)
        for x in parameters:
            x.grad = x.detach().clone()

    def update() -> dict:
        wait()
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        wait()
        return {"update": (time.perf_counter() - start, ())}

    def call() -> dict:
        wait()
        start = time.perf_counter()
        y = reference.ORACLES[name].function(*tensors)
        wait()
        middle = time.perf_counter()
        if not wanted:
            return {"forward": (middle - start, ())}
        dy = torch.ones_like(y)
        wait()
        begin = time.perf_counter()
        torch.autograd.grad(y, wanted, dy)
        wait()
        return {"forward": (middle - start, ()), "backward": (time.perf_counter() - begin, ())}

    return update if name == UPDATE else call


SIDES = {"ours": ours, "numpy": partial(ours, kernel_set="numpy"), "eager": eager}
SIDES |= {"cuda": cuda, "eager-cuda": partial(eager, device="cuda")}  # on a GPU


def serve(side: str, folder: Path) -> None:
    settings = json.loads((folder / "cases.json").read_text())
    play, own = SIDES.get(side) or partial(ours, kernel_set=side), nullcontext()
    if side.endswith(".cu"):
        from tinygrad_llm.lab.source import source
        from tinygrad_llm.lab.values import in_use

        play, own = cuda, in_use(source(side, settings["cases"][0]["name"]), on=nullcontext)

    @lru_cache(maxsize=1)  # the arrays of one case at a time
    def caller(case: int) -> Callable[[], dict]:
        called = settings["cases"][case]
        return play(called["name"], inputs_of(called), called["needs"])

    def turn(case: int) -> dict:
        calls, end = [], time.perf_counter() + PATIENCE
        while not calls or (len(calls) < settings["steps"] and time.perf_counter() < end):
            calls.append(caller(case)())
        seconds = {phase: [call[phase][0] for call in calls] for phase in calls[0]}
        return {"seconds": seconds, "work": {phase: work for phase, (_, work) in calls[0].items()}}

    with own:
        worker.serve(turn)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
