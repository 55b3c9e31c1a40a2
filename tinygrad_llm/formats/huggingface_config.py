"""The shape of a model as config.json has it, in transformers' words: to our configurations and back."""

import json
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.formats.stored import typed
from tinygrad_llm.models import GPTConfig, LlamaConfig
from tinygrad_llm.nn.rope import TRAINED

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


def write_config(config: GPTConfig | LlamaConfig) -> dict:
    """config.json's entries for a model of this shape. Raises UserError where transformers has no such architecture."""
    entries = _gpt2_entries(config) if isinstance(config, GPTConfig) else _llama_entries(config)
    return entries | {"tie_word_embeddings": config.tie_weights}


def _gpt2_entries(config: GPTConfig) -> dict:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **GPT2_FIXED,
        **{theirs: getattr(config, ours) for ours, theirs in GPT2.items()},
        "activation_function": ACTIVATIONS[config.activation],
        **dict.fromkeys(["embd_pdrop", "resid_pdrop", "attn_pdrop"], config.dropout),
        "bias": config.bias,
    }


def _read_gpt2(c: dict) -> GPTConfig:
    _check_fixed(c, GPT2_FIXED)
    if c["activation_function"] not in FROM_ACTIVATIONS:
        raise UserError(f"no activation {c['activation_function']!r} here, but {', '.join(FROM_ACTIVATIONS)}")
    if c.get("n_inner") not in (None, 4 * c["n_embd"]):
        raise UserError(f"n_inner is {c['n_inner']}, but a block here is 4 n_embd = {4 * c['n_embd']} wide")
    values = {ours: c[theirs] for ours, theirs in GPT2.items()}
    values["activation"] = FROM_ACTIVATIONS[c["activation_function"]]
    values["dropout"], values["bias"] = c.get("resid_pdrop", 0.0), c.get("bias", True)
    return typed(GPTConfig, values | {"tie_weights": c.get("tie_word_embeddings", True)})


def _llama_entries(c: LlamaConfig) -> dict:
    """Of a Qwen2 where queries, keys and values alone have biases."""
    qwen2 = (c.attention_bias, c.attention_output_bias, c.mlp_bias) == (True, False, False)
    if not qwen2 and c.attention_bias != c.attention_output_bias:
        raise UserError("no architecture of transformers has biases in these places: see attention_bias in LlamaConfig")
    scaling, block_size = c.rope_scaling, c.block_size
    if scaling and scaling["rope_type"] == "dynamic":  # which transformers does from max_position_embeddings on
        block_size = scaling[TRAINED]
    return {
        "model_type": "qwen2" if qwen2 else "llama",
        "architectures": ["Qwen2ForCausalLM" if qwen2 else "LlamaForCausalLM"],
        **{theirs: getattr(c, ours) for ours, theirs in (LLAMA | LLAMA_OPTIONAL).items()},
        "max_position_embeddings": block_size,
        "attention_bias": c.attention_bias,
        "hidden_act": "silu",
        "rope_theta": c.rope_theta,
        "rope_scaling": scaling,
    }


def _read_llama(c: dict) -> LlamaConfig:
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


READERS = {"gpt2": _read_gpt2, "llama": _read_llama, "qwen2": _read_llama}
