"""Arrays in files that are not read yet, so that a model is checked against them before anything is allocated."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from tinygrad_llm import memory
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from tinygrad_llm.nn import meta

BFLOAT16 = "bfloat16"  # the upper half of a float32, which NumPy has no type for
MOST_AXES = 8
STRIP = 64  # rows that are transposed at once: few enough to stay in the cache, which is four times as fast
MODELS = {GPTConfig: GPT, LlamaConfig: Llama}


@dataclass(frozen=True)
class Stored:
    """An array that begins at byte `offset` of a file: `kind` is its NumPy type or "bfloat16", `shape` its shape.

    `transposed` says that the file has the transpose, row by row.
    """

    path: Path
    offset: int
    kind: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def T(self) -> "Stored":
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    def reshape(self, *shape: int) -> "Stored":
        """The same numbers under another shape of the same size."""
        return replace(self, shape=shape)

    @property
    def is_float(self) -> bool:
        return self.kind == BFLOAT16 or np.dtype(self.kind).kind == "f"

    def read(self, dtype=None) -> np.ndarray:
        """The array, contiguous: with this dtype, or the file's, where half precision becomes float32."""
        kind = np.dtype(np.uint16 if self.kind == BFLOAT16 else self.kind)
        if dtype is None:
            dtype = np.float32 if self.is_float and kind.itemsize == 2 else kind.newbyteorder("=")
        array = memory.empty(self.shape, dtype)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if kind == array.dtype and not self.transposed:
                if file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:
                    raise UserError(f"{self.path} is cut short")
                return array
            stored = np.fromfile(file, kind, math.prod(self.shape))
        if self.kind == BFLOAT16:
            stored = np.left_shift(stored, 16, dtype=np.uint32).view(np.float32)
        if not self.transposed:
            array[...] = stored.reshape(self.shape)
            return array
        stored = stored.reshape(self.shape[::-1])
        for i in range(0, len(stored), STRIP):
            array[..., i : i + STRIP] = stored[i : i + STRIP].T
        return array


def assemble(config: GPTConfig | LlamaConfig, stored: Mapping[str, Stored], dtype=None) -> LanguageModel:
    """The model of this shape with these parameters, in `eval` mode. They are of the given dtype, or without one of
    float32, unless one of them is float64.

    Raises UserError, before anything large is allocated, where names or shapes are not the model's.
    """
    if config.n_layer > len(stored):
        raise UserError(f"{config.n_layer} layers are more than its {len(stored)} tensors make")
    for name, array in stored.items():
        if not array.is_float:
            raise UserError(f"{name} is of type {array.kind}, which is not floating")
    try:
        with meta():
            model = MODELS[type(config)](config)
    except ValueError as error:  # NumPy's: more numbers than an array can have
        raise UserError(f"no model can be this large: {error}") from error
    model.check_state_dict(stored)
    if dtype is None:
        dtype = np.result_type(np.float32, *(array.kind for array in stored.values() if array.kind != BFLOAT16))
    for name, parameter in model.named_parameters():
        parameter.data = stored[name].read(dtype)
    return model.eval()


def typed(config_class: type, values: dict):
    """The configuration with these values. Raises UserError for one that is not of its field's type."""
    types = {field.name: field.type for field in fields(config_class) if field.type in (int, float, bool)}
    for name, kind in types.items():
        value = values.get(name, kind())
        if kind is float and type(value) is int:
            values = values | {name: float(value)}
        elif type(value) is not kind:
            raise UserError(f"{name} is {value!r}, not {kind.__name__}")
    return config_class(**values)
