"""Adapters in PEFT's folders (https://github.com/huggingface/peft): `adapter_config.json` and
`adapter_model.safetensors`, for GPT-2, Llama and Qwen2.

A tensor is called after its layer in transformers' model, say
base_model.model.transformer.h.0.attn.c_attn.lora_A.weight. A is (r, in) and B (out, r) beside a `Conv1D` too, whose
own weight is transposed: `fan_in_fan_out` says so.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading, replacing, write_atomic
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.safetensors import open_arrays, save_arrays
from tinygrad_llm.formats.stored import typed
from tinygrad_llm.models import GPT, LanguageModel
from tinygrad_llm.nn.lora import LoRAConfig, adapters, add_lora, linear_layers, merge

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MATRICES = ("lora_A", "lora_B")

# What PEFT has and this program does not: its entries in adapter_config.json where it is not used.
UNUSED = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "bias": "none",
    "layer_replication": None,
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "use_dora": False,
    "use_qalora": False,
}
KEEPING = (True, False, "gaussian", "orthogonal", "eva")  # beginnings of A and B that leave W as it is


def save_adapter(model: LanguageModel, folder: str | os.PathLike, base: str | None = None) -> None:
    """Write the model's adapters to a folder that PeftModel.from_pretrained opens beside the same model.

    `base` is what the folder calls that model: its name on the hub, or where it lies. Each file is whole or absent.
    Raises UserError for a model without adapters, and where a file cannot be written.
    """
    layers = adapters(model)
    if not layers:
        raise UserError("the model has no adapters to save: see add_lora")
    lora = next(iter(layers.values())).config
    config = UNUSED | {
        "base_model_name_or_path": base,
        "fan_in_fan_out": isinstance(model, GPT),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": _targets(model, set(layers)),
        "task_type": "CAUSAL_LM",
        "use_rslora": lora.rslora,
    }
    arrays = {tensor(model, name, x): getattr(layer, x).data for name, layer in layers.items() for x in MATRICES}
    with replacing(Path(folder) / WEIGHTS) as temporary:
        save_arrays(arrays, temporary)
    write_atomic(Path(folder) / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_adapter(model: LanguageModel, folder: str | os.PathLike) -> None:
    """Add the adapters in a folder that `save_adapter`, or PEFT, has written for this model, which is frozen.

    Raises UserError, before the model is changed, for files that are missing or damaged, for what PEFT has and this
    program does not, and for adapters of another model, naming a tensor that does not fit.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    stored = open_arrays(folder / WEIGHTS)
    names = {}  # of the layers that have an adapter
    with reading(folder / WEIGHTS):
        shapes = _shapes(model, config.rank)
        for key, array in stored.items():
            if key not in shapes:
                raise UserError(f"{key} belongs to no linear layer of this {type(model).__name__}")
            names[key], shape = shapes[key]
            if array.shape != shape or not array.is_float:
                raise UserError(f"{key} is {array.kind} of shape {array.shape}, but this model's has {shape}")
        if missing := shapes.keys() & {tensor(model, n, x) for n in names.values() for x in MATRICES} - stored.keys():
            raise UserError(f"{min(missing)} is missing")
        if not names:
            raise UserError("there are no adapters in it")
    add_lora(model, replace(config, target=",".join(_targets(model, set(names.values())))))
    for name, layer in adapters(model).items():
        for x in MATRICES:
            getattr(layer, x).data = stored[tensor(model, name, x)].read(getattr(layer, x).dtype)


def load_merged(folder: str | os.PathLike, *, dtype=np.float32, quantized: bool = False) -> LanguageModel:
    """The model that the adapters in a folder are for, with them merged into its weights.

    Raises UserError where it cannot be had, and as `load_adapter`.
    """
    model = load_model(base_of(folder), dtype=dtype, quantized=quantized)
    load_adapter(model, folder)
    merge(model)
    return model.requires_grad_().eval()


def base_of(folder: str | os.PathLike) -> str:
    """Which model the adapters in a folder are for. Raises UserError where adapter_config.json does not say."""
    path = Path(folder) / CONFIG
    with reading(path):
        base = json.loads(path.read_text("utf-8"))["base_model_name_or_path"]
        if not isinstance(base, str):
            raise UserError(f"{path}: base_model_name_or_path is {base!r}, and no model's name or path")
    return base


def read_config(path: Path) -> LoRAConfig:
    """The LoRA in an adapter_config.json. Raises UserError for one that is damaged or that this program has not."""
    with reading(path):
        c = json.loads(path.read_text("utf-8"))
        if c["peft_type"] != "LORA":
            raise UserError(f"{path}: peft_type is {c['peft_type']!r}, but this program has 'LORA' only")
        for name, value in UNUSED.items():
            if c.get(name) and c[name] != value:
                raise UserError(f"{path}: {name} is {c[name]!r}, which this program does not have")
        if c.get("init_lora_weights", True) not in KEEPING:
            raise UserError(f"{path}: init_lora_weights is {c['init_lora_weights']!r}, which changes the base weights")
        values = {"rank": c["r"], "alpha": float(c["lora_alpha"]), "dropout": float(c.get("lora_dropout") or 0.0)}
        return typed(LoRAConfig, values | {"rslora": c.get("use_rslora", False)})


def tensor(model: LanguageModel, name: str, matrix: str) -> str:
    """What PEFT calls lora_A or lora_B of the layer of this name."""
    return f"base_model.model.{'transformer' if isinstance(model, GPT) else 'model'}.{name}.{matrix}.weight"


def _shapes(model: LanguageModel, rank: int) -> dict[str, tuple[str, tuple[int, int]]]:
    """Of each tensor that an adapter for this model may have: its layer's name, and its shape."""
    if adapters(model):
        raise UserError("the model has adapters already: merge them first")
    shapes = {}
    for name, layer in linear_layers(model).items():
        out_features, in_features = layer.weight.shape
        shapes[tensor(model, name, "lora_A")] = name, (rank, in_features)
        shapes[tensor(model, name, "lora_B")] = name, (out_features, rank)
    return shapes


def _targets(model: LanguageModel, names: set[str]) -> list[str]:
    """The layers of these names: by what they are called in every block, if all that are called so are meant."""
    ends = {name.rpartition(".")[2] for name in names}
    called = {name for name in linear_layers(model) if name.rpartition(".")[2] in ends}
    return sorted(ends if called == names else names)
