"""Models in GGUF files, the ones that llama.cpp reads: of its architectures llama, qwen2 and gpt2.

The weights' names are translated by the package `gguf`. One thing differs besides: for "llama", though not for "qwen2",
llama.cpp turns the channels 2i and 2i + 1 of a head together, and we, as transformers, i and i + D/2. So the rows of
the queries' and keys' projections stand there in another order, which a row of quantized blocks keeps whole.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quant_shape_to_byte_shape

from tinygrad_llm import quantization
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading, replacing
from tinygrad_llm.formats import check_merged, check_vocabulary
from tinygrad_llm.formats.gguf_config import architecture, read_config, write_config
from tinygrad_llm.formats.gguf_reader import GGUF, read
from tinygrad_llm.formats.gguf_tokenizer import write_tokenizer
from tinygrad_llm.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from tinygrad_llm.nn import Module, Parameter, meta
from tinygrad_llm.nn.quantized import use_quantized
from tinygrad_llm.quantization import Quantized, quantize
from tinygrad_llm.tokenizers import Tokenizer
from tinygrad_llm.tokenizers.gguf import NO_VOCABULARY

__all__ = ["GGUF", "TYPES", "load", "read", "save"]

FLOATS = {"F32": np.float32, "F16": np.float16}
TYPES = [*FLOATS, "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]  # that can be written
ENDS = ("token_embd.weight", "output.weight")  # the embedding and the head, which suffer most from few bits


def load(path: str | os.PathLike, *, dtype=np.float32, quantized: bool = False) -> LanguageModel:
    """The model in a GGUF file, its parameters of this dtype; with `quantized`, matrices in blocks of 8 or 4 bits that
    layers can compute with stay in them.

    Raises UserError, before anything large is allocated, for a file that is damaged, that does not hold what it says,
    or whose architecture this program lacks.
    """
    path = Path(path)
    file = read(path)
    with reading(path):
        config = read_config(file)
        with meta():
            model = (GPT if isinstance(config, GPTConfig) else Llama)(config)
        stored = _stored(model, file)
        blocks = {name: x for name, x in stored.items() if isinstance(x, Quantized) and x.type in quantization.TYPES}
        use_quantized(model, blocks if quantized else {})
        for name, parameter in model.named_parameters():
            x = stored[name]
            parameter.data = x.dequantize(dtype) if isinstance(x, Quantized) else x.astype(dtype)
    return model.eval()


def save(
    model: LanguageModel,
    path: str | os.PathLike,
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = None,
    type: str | None = None,
) -> None:
    """Write a GGUF file that llama.cpp opens, whole or not at all, with the tokenizer's vocabulary and chat template.

    `type`, one of TYPES, is what matrices become: without one, quantized matrices stay as they are, and others become
    F32, as vectors and GPT-2's positions always are. Matrices that blocks do not divide become F16; the embedding and
    the head have 8 bits where the others have fewer. Raises UserError for a model that llama.cpp does not have.
    """
    if type not in (None, *TYPES):
        raise UserError(f"there is no type {type!r} to write: choose one of {', '.join(TYPES)}")
    check_merged(model)
    values, tensors = write_config(model.config)
    tensors |= _to_store(model)
    types = {name: _type(name, x, type) for name, x in tensors.items()}
    main = Counter(types[name] for name, x in tensors.items() if len(x.shape) == 2).most_common(1)[0][0]
    values |= {
        "general.type": "model",
        "general.name": Path(path).stem,
        "general.file_type": int(gguf.LlamaFileType["ALL_F32" if main == "F32" else f"MOSTLY_{main}"]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    if tokenizer:
        check_vocabulary(model, tokenizer)
        values |= write_tokenizer(tokenizer, model.config.vocab_size, chat_template or tokenizer.chat_template)
    else:
        values["tokenizer.ggml.model"] = NO_VOCABULARY
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture(model.config))
        try:
            for key, value in values.items():
                _add_value(writer, key, value)
            for name, x in tensors.items():
                kind = gguf.GGMLQuantizationType[types[name]]
                shape = quant_shape_to_byte_shape(x.shape, kind)
                writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape)), kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, x in tensors.items():
                writer.write_tensor_data(_encoded(x, types[name]))
        finally:
            writer.close()


def _stored(model: LanguageModel, file: GGUF) -> dict[str, np.ndarray | Quantized]:
    """The file's tensors under our names and in our order. Raises UserError where they are not this model's."""
    kind, parameters = file.metadata["general.architecture"], dict(model.named_parameters())
    names = _names(model, kind, parameters)
    unexpected = file.tensors.keys() - set(names.values()) - {"rope_freqs.weight"}
    if kind == "gpt2" and not model.config.bias:
        unexpected = {name for name in unexpected if not name.endswith(".bias")}  # the zeros that the format wants
    if unexpected:
        raise UserError(f"this program has no tensor {min(unexpected)} in a model of architecture {kind}")
    stored = {}
    for name, theirs in names.items():
        if theirs not in file.tensors:
            raise UserError(f"tensor {theirs} is missing")
        x = file.tensors[theirs]
        if x.shape != parameters[name].shape:
            raise UserError(f"tensor {theirs} has shape {x.shape}, not {parameters[name].shape}")
        order = _order(model.config, kind, name)
        stored[name] = x if order is None else _take(x, np.argsort(order))
    return stored


def _to_store(model: LanguageModel) -> dict[str, np.ndarray | Quantized]:
    """The model's weights under llama.cpp's names and in its order, with zeros for biases that it wants."""
    kind, config, weights = architecture(model.config), model.config, dict(_weights(model))
    if kind == "gpt2" and not config.bias:
        for name in [*weights]:
            if name.startswith(("h.", "ln_f.")):
                weights[name.removesuffix("weight") + "bias"] = np.zeros(weights[name].shape[0], np.float32)
    stored = {}
    for name, theirs in _names(model, kind, weights).items():
        order = _order(config, kind, name)
        stored[theirs] = weights[name] if order is None else _take(weights[name], order)
    return stored


def _weights(module: Module, prefix: str = "") -> Iterator[tuple[str, np.ndarray | Quantized]]:
    """Every parameter's array and every quantized weight, by name."""
    for name, value in vars(module).items():
        if isinstance(value, Parameter | Quantized):
            yield prefix + name, value.data if isinstance(value, Parameter) else value
    for name, child in module.named_children():
        yield from _weights(child, f"{prefix}{name}.")


def _names(model: LanguageModel, kind: str, ours: Iterable[str]) -> dict[str, str]:
    """Our name of a weight -> llama.cpp's, in an architecture of this kind."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[kind], model.config.n_layer)
    prefix = "transformer." if kind == "gpt2" else "model."
    names = {
        name: table.get_name(name if name.startswith("lm_head.") else prefix + name, (".weight", ".bias"))
        for name in ours
    }
    if strange := [name for name, theirs in names.items() if theirs is None]:
        raise UserError(f"llama.cpp has nothing like {strange[0]} in a model of architecture {kind}")
    return names


def _order(config: GPTConfig | LlamaConfig, kind: str, name: str) -> np.ndarray | None:
    """Which of our rows each row of llama.cpp's is, where they differ: of D in a head 0, D/2, 1, D/2 + 1, ..."""
    heads = config.n_head if ".q_proj." in name else config.n_kv_head if ".k_proj." in name else 0
    if kind != "llama" or not heads:
        return None
    return np.arange(heads * config.head_dim).reshape(heads, 2, -1).swapaxes(1, 2).ravel()


def _take(x: np.ndarray | Quantized, rows: np.ndarray) -> np.ndarray | Quantized:
    return replace(x, blocks=x.blocks[rows]) if isinstance(x, Quantized) else x[rows]


def _type(name: str, x: np.ndarray | Quantized, type: str | None) -> str:
    """What a tensor becomes where matrices are to become `type`."""
    if len(x.shape) < 2 or name == "position_embd.weight":
        return "F32"
    if type is None:
        return x.type if isinstance(x, Quantized) else "F32"
    if x.shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]][0]:
        return "F16"
    return "Q8_0" if name in ENDS and type.startswith(("Q4", "Q5")) else type


def _encoded(x: np.ndarray | Quantized, type: str) -> np.ndarray:
    if isinstance(x, Quantized):
        if x.type == type:
            return x.blocks
        x = x.dequantize()
    return np.ascontiguousarray(x, FLOATS[type]) if type in FLOATS else quantize(x, type).blocks


def _add_value(writer: gguf.GGUFWriter, key: str, value: bool | int | float | str | list) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)
