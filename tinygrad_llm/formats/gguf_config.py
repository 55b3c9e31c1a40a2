"""The shape of a model in GGUF's metadata (`llama.embedding_length` and the like), to our configurations and back."""

from dataclasses import replace

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.formats.gguf_reader import GGUF
from tinygrad_llm.formats.gguf_rope import read_scaling, write_scaling
from tinygrad_llm.models import GPTConfig, LlamaConfig

MOST = 2**24  # of whatever is counted: tokens of context, say
KINDS = {int: "whole number", float: "fraction", str: "text"}
NORM_EPS = 1e-5  # of every GPT-2
ACTIVATION, BIAS = "tinygrad_llm.activation", "tinygrad_llm.bias"  # what llama.cpp's GPT-2 has in one form only


def architecture(config: GPTConfig | LlamaConfig) -> str:
    """llama.cpp's name for a model of this shape."""
    if isinstance(config, GPTConfig):
        return "gpt2"
    c = config
    as_qwen2 = c.attention_bias and not c.attention_output_bias and not c.mlp_bias and c.head_dim * c.n_head == c.n_embd
    return "qwen2" if as_qwen2 else "llama"


def read_config(file: GGUF) -> GPTConfig | LlamaConfig:
    """The shape of the model in a file. Raises UserError for an architecture that this program lacks, and for numbers
    that are missing, of another kind or absurd."""
    fields = _Fields(file)
    known = {"llama": _read_llama, "qwen2": _read_llama, "gpt2": _read_gpt2}
    if fields.architecture not in known:
        raise UserError(f"its architecture is {fields.architecture!r}: this program has {', '.join(known)}")
    return known[fields.architecture](fields)


def write_config(config: GPTConfig | LlamaConfig) -> tuple[dict[str, int | float | str | bool], dict[str, np.ndarray]]:
    """The metadata and the tensors that tell a model's shape. Raises UserError for one that llama.cpp does not have."""
    c, tensors = config, {}
    values = {
        "vocab_size": c.vocab_size,
        "context_length": c.block_size,
        "embedding_length": c.n_embd,
        "block_count": c.n_layer,
        "attention.head_count": c.n_head,
    }
    ours = {}
    if isinstance(c, GPTConfig):
        values |= {"feed_forward_length": 4 * c.n_embd, "attention.layer_norm_epsilon": NORM_EPS}
        ours = {ACTIVATION: c.activation, BIAS: c.bias}
    else:
        values |= {
            "feed_forward_length": c.intermediate_size,
            "attention.head_count_kv": c.n_kv_head,
            "attention.key_length": c.head_dim,
            "attention.value_length": c.head_dim,
            "attention.layer_norm_rms_epsilon": c.norm_eps,
            "rope.dimension_count": c.head_dim,
            "rope.freq_base": c.rope_theta,
        }
        scaling, tensors = write_scaling(c.rope_scaling, c.rope_theta, c.head_dim)
        values |= {f"rope.scaling.{name}": value for name, value in scaling.items()}
    name = architecture(c)
    return {f"{name}.{key}": value for key, value in values.items()} | ours, tensors


class _Fields:
    """Metadata under the architecture's name, each value checked as it is taken."""

    def __init__(self, file: GGUF):
        self.values, self.tensors = file.metadata, file.tensors
        self.architecture = self.values.get("general.architecture")

    def take(self, name: str, kind: type, default=None):
        key = f"{self.architecture}.{name}"
        value = self.values.get(key, default)
        if value is None:
            raise UserError(f"it has no {key}")
        if type(value) is not kind:
            raise UserError(f"{key} must be a {KINDS[kind]}, not {value!r:.60}")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.take(name, int, default)
        if not 1 <= value <= MOST:
            raise UserError(f"{self.architecture}.{name} is {value}: a number from 1 to {MOST} makes sense")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        return self.take(name, str, default)

    def real(self, name: str, default: float | None = None) -> float:
        """A number that was rounded to float32, as the decimal fraction that was meant: 1e-05, not 9.99999975e-06."""
        return float(str(np.float32(self.take(name, float, default))))

    def rows(self, tensor: str) -> int:
        if tensor not in self.tensors:
            raise UserError(f"it has no tensor {tensor}")
        return self.tensors[tensor].shape[0]

    def common(self) -> dict:
        n_layer = self.whole("block_count")
        if n_layer > len(self.tensors):
            raise UserError(f"{self.architecture}.block_count is {n_layer}, but there are {len(self.tensors)} tensors")
        return {
            "vocab_size": self.rows("token_embd.weight"),
            "block_size": self.whole("context_length"),
            "n_layer": n_layer,
            "n_head": self.whole("attention.head_count"),
            "n_embd": self.whole("embedding_length"),
            "tie_weights": "output.weight" not in self.tensors,
        }

    def only(self, name: str, value: int | float, found: int | float) -> None:
        if value != found:
            raise UserError(f"{self.architecture}.{name} is {found}: this program has {value} only")


def _read_gpt2(fields: _Fields) -> GPTConfig:
    biases = [x for name, x in fields.tensors.items() if name.endswith(".bias")]
    config = GPTConfig(
        **fields.common(),
        activation=fields.values.get(ACTIVATION, "gelu_tanh"),
        bias=bool(fields.values.get(BIAS, True)) or any(np.any(x) for x in biases),
    )
    width = 4 * config.n_embd
    fields.only("feed_forward_length", width, fields.whole("feed_forward_length", width))
    fields.only("attention.layer_norm_epsilon", NORM_EPS, fields.real("attention.layer_norm_epsilon", NORM_EPS))
    return config


def _read_llama(fields: _Fields) -> LlamaConfig:
    common = fields.common()
    head_dim = fields.whole("attention.key_length", common["n_embd"] // common["n_head"])
    for name in ("attention.value_length", "rope.dimension_count"):
        fields.only(name, head_dim, fields.whole(name, head_dim))
    config = LlamaConfig(
        **common,
        n_kv_head=fields.whole("attention.head_count_kv", common["n_head"]),
        intermediate_size=fields.whole("feed_forward_length"),
        head_dim=head_dim,
        norm_eps=fields.real("attention.layer_norm_rms_epsilon"),
        rope_theta=fields.real("rope.freq_base", 10000.0),
        attention_bias="blk.0.attn_q.bias" in fields.tensors,
        attention_output_bias="blk.0.attn_output.bias" in fields.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in fields.tensors,
    )
    divisors = fields.tensors.get("rope_freqs.weight")
    return replace(config, rope_scaling=read_scaling(fields, divisors, config.rope_theta, head_dim, config.block_size))
