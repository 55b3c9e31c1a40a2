"""Hugging Face's GPT-2 folders: `config.json`, `model.safetensors` and the tokenizer's files.

Their names and layout differ from ours in two ways. A linear layer there is a `Conv1D`, whose weight is (in, out), the
transpose of ours. And it always has biases: a model of ours without any is written with zeros in their place, and with
the entry `"bias": false` in config.json, which brings it back without.
"""

import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading, write_atomic
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizers import Tokenizer

ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
FROM_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}
TRANSPOSED = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old files hold beside the weights

# What the architecture allows and our GPT has in one form only.
FIXED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def save_pretrained(model: GPT, folder: str | os.PathLike, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder that transformers' GPT2LMHeadModel.from_pretrained opens, and AutoTokenizer with a tokenizer.

    Each file is whole or absent. Raises UserError or OSError where one cannot be written.
    """
    folder, c = Path(folder), model.config
    end = tokenizer.special_tokens.get("<|endoftext|>") if tokenizer else None
    config = FIXED | {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": c.vocab_size,
        "n_positions": c.block_size,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "activation_function": ACTIVATIONS[c.activation],
        **dict.fromkeys(["embd_pdrop", "resid_pdrop", "attn_pdrop"], c.dropout),
        "bias": c.bias,
        "tie_word_embeddings": c.tie_weights,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": model.wte.weight.dtype.name,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(to_huggingface(model), folder / "model.safetensors")
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    if tokenizer:
        tokenizer.save(folder)


def load_pretrained(folder: str | os.PathLike) -> GPT:
    """The GPT in a folder that `save_pretrained`, or transformers for a GPT-2, has written.

    Half-precision weights become float32. Raises UserError for files that are missing, damaged or do not fit
    together, and for a model that is no GPT-2.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: give a folder with config.json and model.safetensors")
    config = _read_config(folder / "config.json")
    arrays = read_arrays(folder / "model.safetensors")
    arrays = {name.removeprefix("transformer."): x for name, x in arrays.items() if not name.endswith(MASKS)}
    if config.tie_weights:
        arrays.pop("lm_head.weight", None)
    state = {name: x.T if name.endswith(TRANSPOSED) else x for name, x in arrays.items()}
    if not config.bias:  # the zeros that the format wants; if they were trained since, they count
        biases = {name for name in state if name.endswith(".bias")}
        if any(state[name].any() for name in biases):
            config = GPTConfig(**{**vars(config), "bias": True})
        else:
            state = {name: x for name, x in state.items() if name not in biases}
    model = GPT(config)
    if any(x.dtype == np.float64 for x in state.values()):
        model.double()
    try:
        model.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{folder / 'model.safetensors'} does not fit its config.json: {error}") from error
    return model


def to_huggingface(model: GPT) -> dict[str, np.ndarray]:
    """The parameters under the names and in the layout of GPT2LMHeadModel; missing biases are zeros."""
    state = model.state_dict()
    if not model.config.bias:
        for name, x in list(state.items()):
            if name.endswith(".weight") and name.startswith(("h.", "ln_f.")):
                state[name.removesuffix("weight") + "bias"] = np.zeros(len(x), x.dtype)  # one an output
    return {
        name if name.startswith("lm_head.") else f"transformer.{name}": x.T if name.endswith(TRANSPOSED) else x
        for name, x in state.items()
    }


def save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write a safetensors file. Raises OSError where that fails, as every other way to write a file does."""
    try:
        save_file({name: np.asarray(x, order="C") for name, x in arrays.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises UserError for one that is missing, truncated or of another dtype."""
    try:
        with reading(path), safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file: {' '.join(str(error).split())}") from error


def _read_config(path: Path) -> GPTConfig:
    with reading(path):
        c = json.loads(path.read_text("utf-8"))
        for name, value in FIXED.items():
            if c.get(name, value) != value:
                raise UserError(f"{path}: {name} is {c[name]!r}, but this program has {value!r} only")
        if c["activation_function"] not in FROM_ACTIVATIONS:
            known = ", ".join(FROM_ACTIVATIONS)
            raise UserError(f"{path}: no activation {c['activation_function']!r} here, but {known}")
        if c.get("n_inner") not in (None, 4 * c["n_embd"]):
            raise UserError(f"{path}: n_inner is {c['n_inner']}, but a block here is 4 n_embd = {4 * c['n_embd']} wide")
        return GPTConfig(
            vocab_size=c["vocab_size"],
            block_size=c["n_positions"],
            n_layer=c["n_layer"],
            n_head=c["n_head"],
            n_embd=c["n_embd"],
            dropout=c.get("resid_pdrop", 0.0),
            bias=c.get("bias", True),
            activation=FROM_ACTIVATIONS[c["activation_function"]],
            tie_weights=c.get("tie_word_embeddings", True),
        )
