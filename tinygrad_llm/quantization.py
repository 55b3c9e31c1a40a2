"""Quantized matrices, in the layouts of GGUF files: small whole numbers, and a scale for each block of them."""

from dataclasses import dataclass

import numpy as np

from tinygrad_llm.devices import device_of
from tinygrad_llm.errors import UserError
from tinygrad_llm.ops.quantized_linear import BYTES, dequantize

TYPES = tuple(BYTES)  # those that layers compute with as they are


@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix of `shape` (rows, columns) as its blocks: bytes (rows, bytes of a row), of a type of GGUF's, say "Q4_1".

    Raises UserError for an unknown type, and for blocks that do not hold such a matrix.
    """

    blocks: np.ndarray
    type: str
    shape: tuple[int, ...]

    def __post_init__(self):
        rows, columns = self.shape
        block, size = _block(self.type)
        if columns % block:
            raise UserError(f"{self.type} has blocks of {block} numbers, and a row of {columns} is not made of such")
        if self.blocks.dtype != np.uint8 or self.blocks.shape != (rows, columns // block * size):
            raise UserError(
                f"{self.type} of shape {self.shape} takes bytes of shape {(rows, columns // block * size)}, "
                f"not {self.blocks.dtype} of shape {self.blocks.shape}"
            )

    def dequantize(self, dtype=np.float32) -> np.ndarray:
        """The matrix as floating numbers."""
        if self.type in TYPES:
            return dequantize(self.blocks, self.type, np.dtype(dtype))
        from gguf import GGMLQuantizationType, quants

        return quants.dequantize(self.blocks, GGMLQuantizationType[self.type]).astype(dtype, copy=False)

    def size(self, dim: int) -> int:
        return self.shape[dim]

    @property
    def device(self) -> str:
        """Where the blocks are."""
        return device_of(self.blocks)

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes


def quantize(array: np.ndarray, type: str) -> Quantized:
    """A matrix (rows, columns), rounded to blocks of this type as llama.cpp rounds it.

    Raises UserError for an unknown type, one that can only be read, and columns that blocks do not divide.
    """
    from gguf import GGMLQuantizationType, quants

    block, _ = _block(type)
    if array.shape[-1] % block:
        raise UserError(f"{type} has blocks of {block} numbers, and a row of {array.shape[-1]} is not made of such")
    try:
        blocks = quants.quantize(array.astype(np.float32, copy=False), GGMLQuantizationType[type])
    except NotImplementedError as error:
        raise UserError(f"{type} can be read and not written: choose one of {', '.join(TYPES)}") from error
    return Quantized(blocks.view(np.uint8), type, array.shape)


def _block(type: str) -> tuple[int, int]:
    """The numbers and the bytes of a block."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if type not in GGMLQuantizationType.__members__:
        raise UserError(f"no quantization is called {type!r}: choose one of {', '.join(TYPES)}")
    return GGML_QUANT_SIZES[GGMLQuantizationType[type]]
