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
from tinygrad_llm.files import reading, write_atomic
from tinygrad_llm.formats import check_vocabulary
from tinygrad_llm.formats.safetensors import open_folder, save_arrays
from tinygrad_llm.formats.stored import Stored, assemble, typed
from tinygrad_llm.models import GPT, GPTConfig, LanguageModel, LlamaConfig
from tinygrad_llm.nn import QuantizedEmbedding, QuantizedLinear
from tinygrad_llm.nn.rope import TRAINED
from tinygrad_llm.tokenizers import Tokenizer

TRANSPOSED = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # that old files hold beside the weights
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
FROM_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}

# Ours -> theirs. And what an architecture allows and our models have in one form only; where it is absent, it is so.
GPT2 = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_embd": "n_embd",
    "n_layer": "n_layer",
    "n_head": "n_head",
}
GPT2_FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
LLAMA = {
    "vocab_size": "vocab_size",
    "block_size": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "intermediate_size": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
LLAMA_OPTIONAL = {"n_kv_head": "num_key_value_heads", "head_dim": "head_dim", "mlp_bias": "mlp_bias"}
LLAMA_FIXED = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "use_sliding_window": False}


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
    if tokenizer:
        check_vocabulary(model, tokenizer)
    if any(isinstance(module, QuantizedLinear | QuantizedEmbedding) for module in model.modules()):
        raise UserError("this format has no place for quantized weights: load the model with quantized=False")
    ends = sorted(tokenizer.eos_ids) if tokenizer else []
    return (gpt2_config if isinstance(model, GPT) else llama_config)(model.config) | {
        "tie_word_embeddings": model.config.tie_weights,
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


def read_config(path: Path) -> GPTConfig | LlamaConfig:
    """The configuration in a config.json. Raises UserError for one that is damaged or of another architecture."""
    with reading(path):
        c = json.loads(path.read_text("utf-8"))
        kind = c.get("model_type", "gpt2")
        if kind not in READERS:
            raise UserError(f"{path}: model_type is {kind!r}, but this program has {', '.join(READERS)}")
        if c.get("quantization_config") is not None:
            raise UserError(f"{path}: its weights are quantized: take the model as it was before, or as a GGUF file")
        return READERS[kind](c)


def gpt2_config(config: GPTConfig) -> dict:
    """config.json's entries for a GPT."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **GPT2_FIXED,
        **{theirs: getattr(config, ours) for ours, theirs in GPT2.items()},
        "activation_function": ACTIVATIONS[config.activation],
        **dict.fromkeys(["embd_pdrop", "resid_pdrop", "attn_pdrop"], config.dropout),
        "bias": config.bias,
    }


def from_gpt2_config(c: dict) -> GPTConfig:
    _check_fixed(c, GPT2_FIXED)
    if c["activation_function"] not in FROM_ACTIVATIONS:
        raise UserError(f"no activation {c['activation_function']!r} here, but {', '.join(FROM_ACTIVATIONS)}")
    if c.get("n_inner") not in (None, 4 * c["n_embd"]):
        raise UserError(f"n_inner is {c['n_inner']}, but a block here is 4 n_embd = {4 * c['n_embd']} wide")
    values = {ours: c[theirs] for ours, theirs in GPT2.items()}
    values["activation"] = FROM_ACTIVATIONS[c["activation_function"]]
    values["dropout"], values["bias"] = c.get("resid_pdrop", 0.0), c.get("bias", True)
    return typed(GPTConfig, values | {"tie_weights": c.get("tie_word_embeddings", True)})


def llama_config(config: LlamaConfig) -> dict:
    """config.json's entries for a Llama, or for a Qwen2 where queries, keys and values alone have biases."""
    c = config
    qwen2 = (c.attention_bias, c.attention_output_bias, c.mlp_bias) == (True, False, False)
    if not qwen2 and c.attention_bias != c.attention_output_bias:
        raise UserError("no architecture of transformers has biases in these places: see attention_bias in LlamaConfig")
    scaling, block_size = c.rope_scaling, c.block_size
    if scaling and scaling["rope_type"] == "dynamic":  # which transformers does from max_position_embeddings on
        block_size = scaling[TRAINED]
    return {
        "model_type": "qwen2" if qwen2 else "llama",
        "architectures": ["Qwen2ForCausalLM" if qwen2 else "LlamaForCausalLM"],
        **{theirs: getattr(config, ours) for ours, theirs in (LLAMA | LLAMA_OPTIONAL).items()},
        "max_position_embeddings": block_size,
        "attention_bias": c.attention_bias,
        "hidden_act": "silu",
        "rope_theta": c.rope_theta,
        "rope_scaling": scaling,
    }


def from_llama_config(c: dict) -> LlamaConfig:
    _check_fixed(c, LLAMA_FIXED)
    values = {ours: c[theirs] for ours, theirs in LLAMA.items()}
    values |= {ours: c[theirs] for ours, theirs in LLAMA_OPTIONAL.items() if c.get(theirs) is not None}
    qwen2 = c["model_type"] == "qwen2"
    values["attention_bias"] = qwen2 or c.get("attention_bias", False)
    values["attention_output_bias"] = not qwen2 and c.get("attention_bias", False)
    values["tie_weights"] = c.get("tie_word_embeddings", False)
    rope = dict(c.get("rope_parameters") or c.get("rope_scaling") or {})  # since version 5 of transformers, and before
    values["rope_theta"] = rope.pop("rope_theta", c.get("rope_theta", 10000.0))
    _check_fixed(rope, LLAMA_FIXED)
    rope["rope_type"] = rope.pop("type", rope.get("rope_type", "default"))
    if rope["rope_type"] == "dynamic":  # then the longest sequence is that many times the trained one
        rope[TRAINED] = values["block_size"]
        values["block_size"] = int(rope["factor"] * values["block_size"])
    elif rope["rope_type"] in ("llama3", "yarn"):
        rope.setdefault(TRAINED, c.get(TRAINED, values["block_size"]))
    values["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return typed(LlamaConfig, values)


def _check_fixed(c: dict, fixed: dict) -> None:
    for name, value in fixed.items():
        if c.get(name, value) != value:
            raise UserError(f"{name} is {c[name]!r}, but this program has {value!r} only")


READERS = {"gpt2": from_gpt2_config, "llama": from_llama_config, "qwen2": from_llama_config}
