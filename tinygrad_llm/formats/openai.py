"""OpenAI's own checkpoints of GPT-2: `hparams.json` and TensorFlow's files, `model.ckpt.index` and `model.ckpt.data-…`.

A linear layer's weight there is (1, in, out), the transpose of ours behind an axis of one.
"""

import json
import os
import re
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.formats.stored import Stored, assemble, typed
from tinygrad_llm.formats.tensorflow import open_checkpoint
from tinygrad_llm.models import GPT, GPTConfig

HPARAMS = {"vocab_size": "n_vocab", "block_size": "n_ctx", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}
PARTS = {"w": "weight", "b": "bias", "g": "weight"}


def load(folder: str | os.PathLike, dtype=None) -> GPT:
    """The GPT-2 in a folder that OpenAI published. Raises UserError for files that are missing, damaged, or do not fit
    together."""
    folder = Path(folder)
    with reading(folder / "hparams.json"):
        hparams = json.loads((folder / "hparams.json").read_text("utf-8"))
        config = typed(GPTConfig, {ours: hparams[theirs] for ours, theirs in HPARAMS.items()})
    prefix = folder / _name(folder / "checkpoint")
    stored = {
        _rename(name): _reorder(array) for name, array in open_checkpoint(prefix).items() if name.startswith("model/")
    }
    try:
        return assemble(config, stored, dtype)
    except UserError as error:
        raise UserError(f"{prefix} does not fit its hparams.json: {error}") from error


def _name(path: Path) -> str:
    """What the files of the newest checkpoint begin with."""
    if not path.is_file():
        return "model.ckpt"
    with reading(path):
        found = re.search(r'^model_checkpoint_path: "(?:.*/)?([^/"]+)"$', path.read_text("utf-8"), re.MULTILINE)
        if not found:
            raise UserError("it has no line like: model_checkpoint_path: \"model.ckpt\"")
        return found[1]


def _rename(name: str) -> str:
    """model/h0/attn/c_attn/w -> h.0.attn.c_attn.weight; model/wte -> wte.weight"""
    parts = re.sub(r"^h(\d+)/", r"h/\1/", name.removeprefix("model/")).split("/")
    return ".".join([*parts[:-1], PARTS[parts[-1]]] if parts[-1] in PARTS else [*parts, "weight"])


def _reorder(array: Stored) -> Stored:
    return array.reshape(*array.shape[1:]).T if len(array.shape) == 3 and array.shape[0] == 1 else array
