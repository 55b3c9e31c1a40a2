"""Reading GGUF, llama.cpp's file format: a header, metadata, a table of tensors, then their data.

The layout is specified at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The header is read here, and not
by `gguf.GGUFReader`, since that believes what a file says of itself: it goes on beyond the end, so that an array said
to hold 2^60 numbers never ends. Here nothing is done that the bytes that are there do not bear out.
"""

import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.quantization import Quantized

NUMBERS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
FLOATS = {"F32": "<f4", "F16": "<f2"}
TYPES = [*FLOATS, "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
NUMBER_OF_TYPE = {GGMLQuantizationType[name].value: name for name in TYPES}


@dataclass(frozen=True)
class GGUF:
    """What a GGUF file holds.

    metadata  key -> a str, bool, int or float; a list of str; or an array of numbers
    tensors   name -> an array (F32, F16) or Quantized (every other type): views of the file, not writeable
    """

    path: Path
    metadata: dict
    tensors: dict[str, np.ndarray | Quantized]


def read(path: str | os.PathLike) -> GGUF:
    """The metadata and tensors of a GGUF file (version 2 or 3, little-endian), all validated, no tensor's data read.

    Raises UserError for a file that is missing, cut short or damaged, or of a tensor type that this program lacks.
    """
    path = Path(path)
    with reading(path), path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError("it is no GGUF file: one starts with the letters GGUF")
        return GGUF(path, *_Header(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).parse())


class _Header:
    """Reads a file's header from its start, each part only after seeing that it is there."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.position = 4

    def parse(self) -> tuple[dict, dict]:
        version = self.number("<u4")
        if version not in (2, 3):
            order = " or it is big-endian" if version & 0xFFFF == 0 else ""
            raise UserError(f"it is of GGUF version {version}{order}: this program reads 2 and 3, little-endian")
        n_tensors, n_metadata = self.number("<u8"), self.number("<u8")
        metadata = self.table(n_metadata, self.metadata_entry)
        infos = self.table(n_tensors, self.tensor_info)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise UserError(f"general.alignment is {alignment!r}, not a power of two")
        # The tensors follow one another, as llama.cpp wants it: none overlap, and all of them are within the file.
        self.position += -self.position % alignment
        start, tensors = self.position, {}
        for name, (kind, shape, offset) in infos.items():
            self.position += (start - self.position) % alignment
            if start + offset != self.position:
                raise UserError(f"tensor {name} starts at {offset}, not at {self.position - start}, next to the last")
            tensors[name] = self.tensor(name, kind, shape)
        return metadata, tensors

    def take(self, n: int, what: str = "the header") -> int:
        """The position of the next n bytes, after which the position is."""
        start = self.position
        if n > len(self.data) - start:
            raise UserError(
                f"the file is cut short or damaged: at byte {start} of {len(self.data)}, {what} wants {n} more"
            )
        self.position += n
        return start

    def numbers(self, dtype: str, count: int) -> np.ndarray:
        start = self.take(count * np.dtype(dtype).itemsize)
        return np.frombuffer(self.data, dtype, count, start)

    def number(self, dtype: str) -> int | float | bool:
        return self.numbers(dtype, 1)[0].item()

    def string(self) -> str:
        length = int.from_bytes(self.data[self.take(8) : self.position], "little")
        start = self.take(length)
        try:
            return self.data[start : self.position].decode()
        except UnicodeDecodeError:
            raise UserError(f"the file is damaged: the text at byte {start} is not UTF-8") from None

    def table(self, count: int, entry) -> dict:
        result = {}
        for _ in range(count):  # an entry takes bytes, so a count that lies comes to the end of the file
            name, value = self.string(), entry()
            if name in result:
                raise UserError(f"the file is damaged: {name!r} occurs twice")
            result[name] = value
        return result

    def metadata_entry(self) -> str | int | float | list[str] | np.ndarray:
        kind = self.number("<u4")
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == GGUFValueType.ARRAY:
            kind, count = self.number("<u4"), self.number("<u8")
            if kind == GGUFValueType.STRING:
                return [self.string() for _ in range(count)]
            if kind in NUMBERS:
                return self.numbers(NUMBERS[kind], count)
        raise UserError(f"the file is damaged: at byte {self.position} there is no value of type {kind}")

    def tensor_info(self) -> tuple[str, tuple[int, ...], int]:
        """A tensor's type, its shape in NumPy's order, and its offset."""
        dimensions = self.number("<u4")
        if not 1 <= dimensions <= 4:
            raise UserError(f"the file is damaged: a tensor at byte {self.position} has {dimensions} dimensions")
        shape = tuple(self.numbers("<u8", dimensions).tolist()[::-1])
        kind = self.number("<u4")
        if kind not in NUMBER_OF_TYPE:
            known = GGMLQuantizationType(kind).name if kind in set(GGMLQuantizationType) else kind
            raise UserError(f"it has a tensor of type {known}: this program reads {', '.join(TYPES)}")
        return NUMBER_OF_TYPE[kind], shape, self.number("<u8")

    def tensor(self, name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray | Quantized:
        block, bytes_a_block = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        if not all(shape) or shape[-1] % block:
            raise UserError(f"tensor {name} has shape {shape}: its rows must be whole blocks of {block} numbers")
        rows, columns = math.prod(shape[:-1]), shape[-1] // block * bytes_a_block
        start = self.take(rows * columns, f"tensor {name}")
        if kind in FLOATS:
            return np.frombuffer(self.data, FLOATS[kind], math.prod(shape), start).reshape(shape)
        blocks = np.frombuffer(self.data, np.uint8, rows * columns, start).reshape(rows, columns)
        return Quantized(blocks, kind, shape)
