"""safetensors files (https://github.com/huggingface/safetensors#format): the length of a header, which is JSON that
says where each tensor lies, and the tensors.

They are written by the package of that name. They are read here, since that reads into memory what may only be looked
at, and NumPy has no bfloat16.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.formats.stored import BFLOAT16, MOST_AXES, Stored

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16}
KINDS |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"}
KINDS |= {"BOOL": "?"}


def save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write a safetensors file, of arrays on any device. Raises OSError where that fails, as every other way does."""
    path.touch()
    mode = path.stat().st_mode
    try:
        arrays = {name: np.asarray(to_device(x, "cpu"), order="C") for name, x in arrays.items()}
        save_file(arrays, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)  # the library leaves the file to its owner alone


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises UserError for one that is missing, damaged or of another dtype."""
    with reading(path):
        return {name: stored.read() for name, stored in open_arrays(path).items()}


def open_arrays(path: Path) -> dict[str, Stored]:
    """Where each array of a safetensors file lies. Raises UserError where the file does not hold what it says."""
    with reading(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 8 < 8 + length <= size:
            raise UserError(f"{path} is damaged or no safetensors file: its header is to end at {8 + length} of {size}")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        end = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in KINDS:
                raise UserError(f"{name} has the dtype {entry['dtype']!r}: this program has {', '.join(KINDS)}")
            kind, (begin, next_end) = KINDS[entry["dtype"]], entry["data_offsets"]
            shape = entry["shape"]
            if len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in (*shape, begin, next_end)):
                raise UserError(f"{name}: shape and offsets must be whole numbers from 0 on, and not too many")
            itemsize = 2 if kind == BFLOAT16 else np.dtype(kind).itemsize
            if begin != end or next_end - begin != math.prod(shape) * itemsize:
                raise UserError(f"{path} is damaged: {name} of shape {shape} does not fill {begin}–{next_end}")
            end = next_end
        if start + end != size:
            raise UserError(f"{path} is damaged: it has {size} bytes, and its header speaks of {start + end}")
        return {
            name: Stored(path, start + entry["data_offsets"][0], KINDS[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
        }


def open_folder(folder: Path) -> dict[str, Stored]:
    """Where each array of a model lies: in model.safetensors, or in the files that its index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return open_arrays(folder / "model.safetensors")
    with reading(index):
        files = dict(json.loads(index.read_text("utf-8"))["weight_map"])
        for name in set(files.values()):
            if Path(name).name != name:
                raise UserError(f"{index}: {name!r} is no name of a file beside it")
        shards = {name: open_arrays(folder / name) for name in sorted(set(files.values()))}
        for tensor, name in files.items():
            if tensor not in shards[name]:
                raise UserError(f"{index}: {tensor} is not in {name}")
        return {tensor: shards[name][tensor] for tensor, name in files.items()}
