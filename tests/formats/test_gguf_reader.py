"""GGUF files: what the package `gguf` writes is read as its own reader reads it, and what lies is found out."""

import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants

from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import gguf_reader
from tinygrad_llm.formats.gguf_reader import read

# The types that the package cannot write, and where in a block of theirs the scales are, in half precision.
READ_ONLY = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def random_blocks(rng, rows: int, kind: str) -> np.ndarray:
    """Rows of two blocks: random bytes, with scales that are finite."""
    size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    blocks = rng.integers(0, 256, (rows * 2, size), np.uint8)
    for at in READ_ONLY[kind]:
        blocks[:, at : at + 2] = rng.normal(0, 0.1, (rows * 2, 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, 2 * size)


@pytest.fixture(scope="module")
def every_type(tmp_path_factory):
    """A file with a value of every kind and a tensor of every type."""
    path, rng = tmp_path_factory.mktemp("gguf") / "every.gguf", np.random.default_rng(1)
    writer = GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("text", "naïve ▁ text")
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [0.5, -1e30])
    writer.add_array("flags", [True, False, True])
    writer.add_array("texts", ["", "a", "▁b"])
    for kind in gguf_reader.TYPES:
        kind_number = GGMLQuantizationType[kind]
        if kind in READ_ONLY:
            writer.add_tensor(kind, random_blocks(rng, 3, kind), raw_dtype=kind_number)
        else:
            data = quants.quantize(rng.normal(size=(3, 64)).astype(np.float32), kind_number)
            writer.add_tensor(kind, data.view(np.uint8) if kind == "BF16" else data, raw_dtype=kind_number)
    writer.add_tensor("vector", rng.normal(size=33).astype(np.float32))
    writer.add_tensor("cube", rng.normal(size=(2, 3, 5)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_is_what_the_package_reads(every_type):
    found = read(every_type).metadata
    expected = {k: f.contents() for k, f in gguf.GGUFReader(every_type).fields.items() if not k.startswith("GGUF.")}
    assert {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()} == expected
    assert [type(found[name]) for name in ("u64", "f32", "bool", "text")] == [int, float, bool, str]


def test_tensors_of_every_type_dequantize_as_the_package_does(every_type):
    found = read(every_type).tensors
    for tensor in gguf.GGUFReader(every_type).tensors:
        x = found.pop(tensor.name)
        assert x.shape == tuple(tensor.shape[::-1])
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, tensor.data)
        else:
            assert x.type == tensor.tensor_type.name
            np.testing.assert_array_equal(x.dequantize(), quants.dequantize(tensor.data, tensor.tensor_type))
    assert not found


def test_tensors_are_views_of_the_file(smollm2):
    tracemalloc.start()
    file = read(smollm2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # the words of the vocabulary; the tensors are 97 MB
    assert len(file.tensors) == 272
    embedding = file.tensors["token_embd.weight"]
    assert (embedding.type, embedding.shape) == ("Q8_0", (49152, 576))
    assert not embedding.blocks.flags.writeable


def text(s: str) -> bytes:
    return struct.pack("<Q", len(s.encode())) + s.encode()


def header(tensors: int = 0, values: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


def tensor(name: str, shape: tuple, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HUGE = 2**60
ALIGN = text("general.alignment")
LIES = {
    "empty": (b"", "no GGUF"),
    "another format": (b"PK\x03\x04" * 10, "no GGUF"),
    "cut in the header": (header()[:12], "cut short"),
    "version 1": (header(version=1), "version 1"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "many values": (header(values=HUGE), "cut short"),
    "many tensors": (header(tensors=HUGE), "cut short"),
    "long key": (header(values=1) + struct.pack("<Q", HUGE), "cut short"),
    "longest key": (header(values=1) + struct.pack("<Q", 2**64 - 1), "cut short"),
    "long text": (header(values=1) + text("k") + struct.pack("<IQ", 8, HUGE), "cut short"),
    "long array": (header(values=1) + text("k") + struct.pack("<IIQ", 9, 4, HUGE), "cut short"),
    "long array of texts": (header(values=1) + text("k") + struct.pack("<IIQ", 9, 8, HUGE) + text("a"), "cut short"),
    "array of arrays": (header(values=1) + text("k") + struct.pack("<IIQ", 9, 9, HUGE), "no value of type 9"),
    "unknown kind": (header(values=1) + text("k") + struct.pack("<I", 77), "no value of type 77"),
    "no UTF-8": (header(values=1) + struct.pack("<Q", 2) + b"\xff\xfe", "not UTF-8"),
    "a key twice": (header(values=2) + 2 * (text("k") + struct.pack("<IB", 0, 1)), "'k' occurs twice"),
    "alignment 0": (header(values=1) + ALIGN + struct.pack("<II", 4, 0), "alignment is 0"),
    "alignment 3": (header(values=1) + ALIGN + struct.pack("<II", 4, 3), "alignment is 3"),
    "alignment 2^31": (header(values=1) + ALIGN + struct.pack("<II", 4, 2**31), "alignment is 2147483648"),
    "alignment in words": (header(values=1) + ALIGN + struct.pack("<I", 8) + text("32"), "alignment is '32'"),
    "huge shape": (header(tensors=1) + tensor("w", (HUGE,)), "tensor w wants"),
    "shape beyond 2^64": (header(tensors=1) + tensor("w", (HUGE, HUGE, HUGE, HUGE)), "tensor w wants"),
    "shape with a product of 0 in 64 bits": (header(tensors=1) + tensor("w", (2**32, 2**32)), "tensor w wants"),
    "empty shape": (header(tensors=1) + tensor("w", (0, HUGE)), "shape"),
    "no dimensions": (header(tensors=1) + tensor("w", ()), "0 dimensions"),
    "many dimensions": (header(tensors=1) + text("w") + struct.pack("<I", 2**32 - 1), "4294967295 dimensions"),
    "unknown type": (header(tensors=1) + tensor("w", (1,), 4000), "type 4000"),
    "a type not read": (header(tensors=1) + tensor("w", (256,), 16) + bytes(999), "type IQ2_XXS"),
    "half a block": (header(tensors=1) + tensor("w", (33,), 8) + bytes(999), "whole blocks of 32"),
    "offset beyond the end": (header(tensors=1) + tensor("w", (1,), 0, HUGE), "starts at"),
    "offset between": (header(tensors=1) + tensor("w", (1,), 0, 1) + bytes(99), "starts at"),
    "one over the other": (header(tensors=2) + tensor("a", (8,)) + tensor("b", (8,)) + bytes(999), "tensor b starts"),
    "a tensor twice": (header(tensors=2) + tensor("a", (8,)) + tensor("a", (8,), 0, 32) + bytes(999), "twice"),
    "cut in the data": (header(tensors=1) + tensor("w", (64,)) + bytes(99), "tensor w wants 256 more"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_found_out_at_once(tmp_path, lie):
    data, message = LIES[lie]
    path = tmp_path / "lie.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert time.perf_counter() - start < 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing\.gguf"):
        read(tmp_path / "nothing.gguf")
