"""TensorFlow's checkpoints, read without TensorFlow: `NAME.index` says where each tensor lies in `NAME.data-…`.

The index is a table in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/table_format.md). It ends in
48 bytes that say where its index block is, which says where the blocks with the entries are:

    block    entries, the positions of some of them (uint32 each), how many positions those are (uint32);
             behind it one byte for its compression, none here, and its masked CRC-32C (uint32)
    entry    three numbers: bytes shared with the key before, further bytes of the key, bytes of the value; key; value

The values are protocol buffers (tensorflow/core/protobuf/tensor_bundle.proto): a BundleHeaderProto under the empty key,
and under each tensor's name a BundleEntryProto.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tensorboardX.record_writer import masked_crc32c

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.formats.stored import BFLOAT16, MOST_AXES, Stored

FOOTER = 48
MAGIC = 0xDB4775248B80FB57
LONGEST_KEY = 4096
KINDS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 14: BFLOAT16, 19: "<f2"}  # of tensorflow.DataType


def open_checkpoint(prefix: Path) -> dict[str, Stored]:
    """Where each array of the checkpoint lies whose files begin with this path.

    The index is checked by its checksums, the data by its size alone. Raises UserError for a file that is missing, cut
    short or damaged, and for a tensor that is in parts or of a type other than floats, int32 and int64.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    with reading(index):
        entries = dict(_table(index.read_bytes()))
        header = dict(_fields(entries.pop(b"")))
        shards = header.get(1, 0)
        if header.get(2, 0) != 0:
            raise UserError("its numbers are big-endian")
        sizes: dict[Path, int] = {}
        tensors = {}
        for key, value in entries.items():
            name = key.decode()
            kind, shape, shard, offset, size = _entry(name, value)
            path = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")
            if path not in sizes:
                sizes[path] = path.stat().st_size
            if offset + size > sizes[path]:
                raise UserError(f"{path} is cut short: it has {sizes[path]} bytes, and {name} ends at {offset + size}")
            tensors[name] = Stored(path, offset, kind, shape)
        return tensors


def _entry(name: str, data: bytes) -> tuple[str, tuple[int, ...], int, int, int]:
    """Type, shape, shard, offset and size in bytes of a BundleEntryProto, whose numbers fit each other."""
    dtype, shard, offset, size, shape = 0, 0, 0, 0, []
    for number, value in _fields(data):
        match number:
            case 1:
                dtype = value
            case 2:  # a TensorShapeProto: of each Dim, field 1 is its size
                shape = [dict(_fields(dim)).get(1, 0) for field, dim in _fields(value) if field == 2]
            case 3:
                shard = value
            case 4:
                offset = value
            case 5:
                size = value
            case 7:
                raise UserError(f"{name} is stored in slices, which this program cannot join")
    if not all(isinstance(n, int) for n in (dtype, shard, offset, size, *shape)) or len(shape) > MOST_AXES:
        raise UserError(f"{name} is damaged: its type, shape or place is not made of numbers, or has too many")
    if dtype not in KINDS:
        raise UserError(f"{name} is of TensorFlow's type {dtype}: this program has {', '.join(map(str, KINDS))}")
    itemsize = 2 if KINDS[dtype] == BFLOAT16 else np.dtype(KINDS[dtype]).itemsize
    if math.prod(shape) * itemsize != size:
        raise UserError(f"{name} of shape {shape} does not take {size} bytes")
    return KINDS[dtype], tuple(shape), shard, offset, size


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table."""
    if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
        raise UserError("it is cut short, or no index of a TensorFlow checkpoint")
    footer, position = data[-FOOTER:], 0
    for _ in range(2):  # the meta-index block, which is empty, and the index block
        start, position = _varint(footer, position)
        size, position = _varint(footer, position)
    end = 0
    for _, handle in _block(data, start, size):
        start, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        if start < end:
            raise UserError("it is damaged: its blocks overlap")
        end = start + size
        yield from _block(data, start, size)


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of the block at `start`."""
    end = start + size
    if size < 4 or end + 5 > len(data) - FOOTER:
        raise UserError(f"it is damaged: a block of {size} bytes at {start}, but it has {len(data)} in all")
    if data[end]:
        raise UserError("its blocks are compressed, which this program cannot read")
    if masked_crc32c(data[start : end + 1]) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise UserError(f"it is damaged: the checksum of the block at {start} is another")
    positions = int.from_bytes(data[end - 4 : end], "little")
    block, position, key = data[start : max(start, end - 4 - 4 * positions)], 0, b""
    while position < len(block):
        shared, position = _varint(block, position)
        further, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or shared + further > LONGEST_KEY or position + further + length > len(block):
            raise UserError(f"it is damaged: an entry at {start + position} is longer than its block or its key")
        key = key[:shared] + block[position : position + further]
        position += further + length
        yield key, block[position - length : position]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: their numbers and values (https://protobuf.dev/programming-guides/encoding)."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        size = 0
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, position = _varint(data, position)
            case 5:
                size = 4
            case other:
                raise UserError(f"it is damaged: a protocol buffer with a field of type {other}")
        if position + size > len(data):
            raise UserError("it is damaged: a protocol buffer is cut short")
        value = data[position : position + size]
        position += size
        yield tag >> 3, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
    raise UserError("it is damaged: a number of more than ten bytes")
