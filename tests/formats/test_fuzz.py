"""Altered files: a reader gives a model that runs or one clear line, and allocates no more than the files could fill.

`pytest -m slow` tries thousands, from seeds that these tests build themselves.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_checkpoint import openai_arrays, write
from safetensors.numpy import save_file

from tinygrad_llm import UserError, manual_seed, memory
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.formats import load_model, save_model
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig

LLAMA = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 8}
LLAMA |= {"intermediate_size": 6, "attention_bias": True}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 4}
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
THOROUGH = settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))


def shard(folder: Path) -> None:
    """Put the weights in two files, with their index."""
    stored = load_model(folder).state_dict()
    names = sorted(stored)
    files = {name: f"model-{1 + (i % 2):05d}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({f"model.{name}": stored[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {f"model.{name}": file for name, file in files.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> dict[str, Path]:
    """Whole folders of each kind, which the tests alter copies of."""
    root = tmp_path_factory.mktemp("seeds")
    manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8))
    save_model(gpt, root / "gpt2")
    save_model(Llama(LlamaConfig(**LLAMA, tie_weights=True, rope_scaling=LLAMA3)), root / "llama")
    shutil.copytree(root / "llama", root / "shards")
    shard(root / "shards")
    (root / "openai").mkdir()
    write(root / "openai", openai_arrays(gpt), hparams={"n_vocab": 11, "n_ctx": 8, "n_layer": 1})
    return {folder.name: folder for folder in root.iterdir()}


def load_altered(seed: Path, file: str, data: bytes) -> None:
    """Load a copy of the folder in which one file has other content: only UserError may come of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "model")
        shutil.copytree(seed, folder)
        (folder / file).write_bytes(data)
        space = 8 * sum(path.stat().st_size for path in folder.iterdir())

        def empty(shape, dtype):
            assert math.prod(shape) * np.dtype(dtype).itemsize <= space
            return allocate(shape, dtype)

        allocate = memory.empty
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(memory, "empty", empty)
                model = load_model(folder)
            with no_grad(), np.errstate(all="ignore"):
                model(np.zeros((1, 2), int))
        except UserError as error:
            assert "\n" not in str(error)


def files(seeds: dict[str, Path], json_only: bool) -> list[Path]:
    every = sorted(path for folder in seeds.values() for path in folder.iterdir())
    return [path for path in every if path.suffix == ".json" or not json_only]


BYTES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=9)), min_size=1, max_size=4)


def alter(data: bytes, changes) -> bytes:
    """Cut, overwrite, insert or delete at places given as a share of the length, half of them in the first 400."""
    for share, kind, new in changes:
        reach = len(data) if share < 0.5 else min(400, len(data))
        position = int((2 * share % 1) * reach)
        if kind == 0:
            data = data[:position]
        elif kind == 1:
            data = data[:position] + new + data[position + len(new) :]
        elif kind == 2:
            data = data[:position] + new + data[position:]
        else:
            data = data[:position] + data[position + len(new) :]
    return data


EXTREMES = st.sampled_from([0, 1, 2, 3, -1, 7, 10**9, 10**18, 2**63, 10**40, 1.5, -0.0, 1e308, True])
VALUES = EXTREMES | st.none() | st.text(max_size=5) | st.lists(EXTREMES, max_size=3) | st.just({}) | st.just("llama")


def places(value, path=()) -> list[tuple]:
    """The paths of all values in nested JSON."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in below for place in places(item, (*path, key)))]


def replaced(value, path: tuple, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def altered_bytes(data, seeds):
    path = data.draw(st.sampled_from(files(seeds, json_only=False)))
    load_altered(path.parent, path.name, alter(path.read_bytes(), data.draw(BYTES)))


def altered_values(data, seeds):
    """One value of a JSON file, or of a safetensors file's header, is another."""
    candidates = [path for path in files(seeds, json_only=False) if path.suffix in (".json", ".safetensors")]
    path = data.draw(st.sampled_from(candidates))
    content, rest = path.read_bytes(), b""
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        content, rest = content[8:end], content[end:]
    value = json.loads(content)
    place = data.draw(st.sampled_from(places(value)))
    new = json.dumps(replaced(value, place, data.draw(VALUES))).encode()
    if path.suffix == ".safetensors":
        new = len(new).to_bytes(8, "little") + new + rest
    load_altered(path.parent, path.name, new)


@pytest.mark.parametrize("altered", [altered_bytes, altered_values])
def test_a_few_altered_files(altered, seeds):
    QUICK(given(st.data())(lambda data: altered(data, seeds)))()


@pytest.mark.slow
@pytest.mark.parametrize("altered", [altered_bytes, altered_values])
def test_thousands_of_altered_files(altered, seeds):
    THOROUGH(given(st.data())(lambda data: altered(data, seeds)))()


def test_the_seeds_themselves_load(seeds):
    for folder in seeds.values():
        load_model(folder)
