"""One side of the race `decode` in a process of its own: `python decode_worker.py SIDE FOLDER`.

FOLDER holds settings.json: the prompt, the threads, and where each side's model is. A line of input says how many
tokens to generate, greedily, after the prompt, and a line of output what that took.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import worker

SHORT = 8  # tokens of the short prompt
Functions = tuple[Callable[[list[int]], np.ndarray], Callable[[int], np.ndarray]]
"""`start(prompt)`, with an empty cache, and `step(token)`; both return the logits (V,) of what comes next."""


def ours(settings: dict, quantized: bool = False) -> Functions:
    from tinygrad_llm import no_grad
    from tinygrad_llm.formats import load_model
    from tinygrad_llm.memory import keep_freed_memory
    from tinygrad_llm.training.threads import set_threads

    set_threads(settings["threads"])
    keep_freed_memory()
    model, cache = load_model(settings["model"], quantized=quantized), None

    @no_grad()
    def run(ids: list[int]) -> np.ndarray:
        return model.head(model.hidden(np.array([ids]), cache)[:, -1]).data[0]

    def start(ids: list[int]) -> np.ndarray:
        nonlocal cache
        cache = model.new_cache(1, settings["length"])
        return run(ids)

    return start, lambda token: run([token])


def eager(settings: dict) -> Functions:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(settings["threads"])
    model, cache = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=torch.float32), None

    @torch.inference_mode()
    def run(ids: list[int]) -> np.ndarray:
        nonlocal cache
        result = model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = result.past_key_values
        return result.logits[0, -1].numpy()

    def start(ids: list[int]) -> np.ndarray:
        nonlocal cache
        cache = None
        return run(ids)

    return start, lambda token: run([token])


def llama_cpp(settings: dict) -> Functions:
    """Without llama.cpp's repacking of weights, which crashes on processors with AMX (ggml-org/llama.cpp#20824)."""
    import llama_cpp.llama_cpp as low
    from llama_cpp import Llama

    defaults = low.llama_model_default_params

    def without_repacking():
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    low.llama_model_default_params = without_repacking
    threads = settings["threads"]
    counts = {"n_ctx": settings["length"], "n_threads": threads, "n_threads_batch": threads}
    model = Llama(settings["model"], verbose=False, **counts)

    def run(ids: list[int]) -> np.ndarray:
        model.eval(ids)
        return np.ctypeslib.as_array(low.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))

    def start(ids: list[int]) -> np.ndarray:
        model.reset()
        return run(ids)

    return start, lambda token: run([token])


def limit(settings: dict) -> Callable[[int], dict]:
    """The time that reading the weights takes, on all threads, at this moment."""
    from tinygrad_llm.roofline import read_bandwidth

    def turn(tokens: int) -> dict:
        return {"seconds": [settings["bytes"] / read_bandwidth(settings["threads"])]}

    return turn


def generating(start: Callable, step: Callable, prompt: list[int]) -> Callable[[int], dict]:
    """A turn: the first token after the short prompt and after the whole one, then `tokens` more."""

    def turn(tokens: int) -> dict:
        answer = {"seconds": [], "tokens": []}
        for name, ids in (("short", prompt[:SHORT]), ("long", prompt)):
            began = time.perf_counter()
            token = int(start(ids).argmax())
            answer[name] = time.perf_counter() - began
        for _ in range(tokens):
            answer["tokens"].append(token)
            began = time.perf_counter()
            token = int(step(token).argmax())
            answer["seconds"].append(time.perf_counter() - began)
        return answer

    return turn


if __name__ == "__main__":
    side, folder = sys.argv[1], Path(sys.argv[2])
    settings = json.loads((folder / "settings.json").read_text())
    sides = {"ours": ours, "eager": eager, "llama.cpp": llama_cpp}
    if side == "limit":
        worker.serve(limit(settings))
    else:
        functions = ours(settings, quantized=settings["quantized"]) if side == "ours" else sides[side](settings)
        worker.serve(generating(*functions, settings["prompt"]))
