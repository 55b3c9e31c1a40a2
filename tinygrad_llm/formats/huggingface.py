"""Hugging Face's model folders: `config.json`, `model.safetensors` (or several) and the tokenizer's files.

Llama and Qwen2 have our names and layout. GPT-2's differ in two ways. A linear layer there is a `Conv1D`, whose weight
is (in, out), the transpose of ours. And it always has biases: a model of ours without any is written with zeros in
their place, and with the entry `"bias": false` in config.json, which brings it back without.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinygrad_llm import hub
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.formats import check_merged, check_vocabulary
from tinygrad_llm.formats.huggingface_config import read_config, write_config
from tinygrad_llm.formats.safetensors import open_folder, save_arrays
from tinygrad_llm.formats.stored import Stored, assemble
from tinygrad_llm.models import GPT, GPTConfig, LanguageModel, LlamaConfig
from tinygrad_llm.nn import QuantizedEmbedding, QuantizedLinear
from tinygrad_llm.tokenizers import Tokenizer

TRANSPOSED = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # that old files hold beside the weights


def save_pretrained(
    model: LanguageModel,
    folder: str | os.PathLike,
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = None,
) -> None:
    """Write a folder that transformers' AutoModelForCausalLM.from_pretrained opens, and AutoTokenizer with a tokenizer.

    `chat_template` takes the place of the tokenizer's. Each file is whole or absent. Raises UserError or OSError where
    one cannot be written, for quantized weights, and for a tokenizer that the embedding has no rows for.
    """
    write_folder(folder, to_huggingface(model), to_config(model, tokenizer), tokenizer, chat_template)


def to_config(model: LanguageModel, tokenizer: Tokenizer | None) -> dict:
    """config.json of a model. Raises UserError for quantized weights, and a tokenizer that it has too few rows for."""
    check_merged(model)
    if tokenizer:
        check_vocabulary(model, tokenizer)
    if any(isinstance(module, QuantizedLinear | QuantizedEmbedding) for module in model.modules()):
        raise UserError("this format has no place for quantized weights: load the model with quantized=False")
    ends = sorted(tokenizer.eos_ids) if tokenizer else []
    return write_config(model.config) | {
        "bos_token_id": tokenizer.bos_id if tokenizer else None,
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "torch_dtype": model.parameters()[0].dtype.name,
    }


def write_folder(
    folder: str | os.PathLike,
    arrays: dict[str, np.ndarray],
    config: dict,
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = None,
) -> None:
    """Write the files of a model. Raises UserError or OSError where one cannot be written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(arrays, folder / "model.safetensors")
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    if tokenizer:
        tokenizer.save(folder)
    if chat_template is not None:
        write_atomic(folder / "chat_template.jinja", chat_template)


def load_pretrained(source: str | os.PathLike, dtype=None) -> LanguageModel:
    """The model in a folder that `save_pretrained`, or transformers for a GPT-2, Llama or Qwen2, has written, or of
    that name on the hub.

    Its parameters get this dtype; without one they keep float64, and everything else becomes float32. Raises UserError
    for files that are missing, damaged or do not fit together, and for another architecture.
    """
    folder = hub.locate(source)
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: give a folder with config.json and model.safetensors")
    config, stored = open_model(folder)
    return assemble_folder(folder, config, stored, dtype)


def open_model(folder: Path) -> tuple[GPTConfig | LlamaConfig, dict[str, Stored]]:
    """A folder's configuration, and where its arrays lie, under our names."""
    config = read_config(folder / "config.json")
    stored = {
        name.removeprefix("transformer.").removeprefix("model."): array
        for name, array in open_folder(folder).items()
        if not name.endswith(CONSTANTS)
    }
    if config.tie_weights:
        stored.pop("lm_head.weight", None)
    return from_conv1d(config, stored) if isinstance(config, GPTConfig) else (config, stored)


def assemble_folder(folder: Path, config: GPTConfig | LlamaConfig, stored: dict[str, Stored], dtype) -> LanguageModel:
    """The model that `open_model` has found. Raises UserError where its parts do not fit together."""
    try:
        return assemble(config, stored, dtype)
    except UserError as error:
        raise UserError(f"the weights in {folder} do not fit its config.json: {error}") from error


def to_huggingface(model: LanguageModel) -> dict[str, np.ndarray]:
    """The parameters under the names and in the layout of transformers; GPT-2's missing biases are zeros."""
    state = model.state_dict()
    if not isinstance(model, GPT):
        return {name if name.startswith("lm_head.") else f"model.{name}": x for name, x in state.items()}
    if not model.config.bias:
        for name, x in list(state.items()):
            if name.endswith(".weight") and name.startswith(("h.", "ln_f.")):
                state[name.removesuffix("weight") + "bias"] = np.zeros(len(x), x.dtype)  # one an output
    return {
        name if name.startswith("lm_head.") else f"transformer.{name}": x.T if name.endswith(TRANSPOSED) else x
        for name, x in state.items()
    }


def from_conv1d(config: GPTConfig, stored: dict[str, Stored]) -> tuple[GPTConfig, dict[str, Stored]]:
    """GPT-2's weights in our layout, without the biases that are only there because the format wants them."""
    stored = {name: x.T if name.endswith(TRANSPOSED) else x for name, x in stored.items()}
    biases = {} if config.bias else {name: x for name, x in stored.items() if name.endswith(".bias")}
    if any(x.read().any() for x in biases.values()):  # trained since: they count
        return replace(config, bias=True), stored
    return config, {name: x for name, x in stored.items() if name not in biases}
