"""OpenAI's checkpoints, written here by the format's definition: Google's protocol buffers in a table of our own."""

import json
import os

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tinygrad_llm import UserError, manual_seed
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.tensorflow import open_checkpoint
from tinygrad_llm.models import GPT, GPTConfig

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
SHAPE = {"vocab_size": 37, "block_size": 16, "n_layer": 12, "n_head": 2, "n_embd": 8}


def messages() -> dict[str, type]:
    """TensorFlow's messages, as tensor_bundle.proto and tensor_shape.proto define them."""
    kinds = {"int32": 5, "int64": 3, "fixed32": 7, "string": 9, "bool": 8}
    definitions = {
        "Dim": {"size": (1, "int64"), "name": (2, "string")},
        "TensorShapeProto": {"dim": (2, "Dim"), "unknown_rank": (3, "bool")},
        "BundleHeaderProto": {"num_shards": (1, "int32"), "endianness": (2, "int32")},
        "BundleEntryProto": {
            "dtype": (1, "int32"),
            "shape": (2, "TensorShapeProto"),
            "shard_id": (3, "int32"),
            "offset": (4, "int64"),
            "size": (5, "int64"),
            "crc32c": (6, "fixed32"),
            "slices": (7, "TensorShapeProto"),
        },
    }
    file = descriptor_pb2.FileDescriptorProto(name="test_openai.proto", package="bundle", syntax="proto3")
    for message, fields in definitions.items():
        entry = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = entry.field.add(name=name, number=number, label=3 if name in ("dim", "slices") else 1)
            field.type = kinds.get(kind, 11)
            if kind not in kinds:
                field.type_name = f".bundle.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bundle.{name}")) for name in definitions}


MESSAGES = messages()


def crc32c(data: bytes) -> int:
    """Bit by bit: the polynomial of Castagnoli, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def block(entries: list[tuple[bytes, bytes]], restart_every: int = 16, compression: int = 0) -> bytes:
    data, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(entries):
        if i % restart_every == 0:
            restarts.append(len(data))
            before = b""
        shared = next((i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), min(len(key), len(before)))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    data += b"".join(r.to_bytes(4, "little") for r in restarts or [0]) + max(len(restarts), 1).to_bytes(4, "little")
    data += bytes([compression])
    return data + masked(crc32c(data)).to_bytes(4, "little")


def table(entries: dict[bytes, bytes], entries_a_block: int = 7) -> bytes:
    entries = sorted(entries.items())
    data, index = b"", []
    for i in range(0, len(entries), entries_a_block):
        part = entries[i : i + entries_a_block]
        made = block(part)
        index.append((part[-1][0] + b"~", varint(len(data)) + varint(len(made) - 5)))
        data += made
    footer = b""
    for made in (block([]), block(index, 1)):
        footer += varint(len(data)) + varint(len(made) - 5)
        data += made
    return data + footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def bundle(arrays: dict[str, np.ndarray], shards: int = 1, **changes) -> tuple[bytes, list[bytes]]:
    """The index and the data files of a checkpoint; `changes` are made to the entry of model/wte."""
    data = [b""] * shards
    entries = {b"": MESSAGES["BundleHeaderProto"](num_shards=shards).SerializeToString()}
    for i, (name, array) in enumerate(sorted(arrays.items())):
        entry = MESSAGES["BundleEntryProto"](
            dtype=TYPES[array.dtype.name],
            shard_id=i % shards,
            offset=len(data[i % shards]),
            size=array.nbytes,
            crc32c=masked(crc32c(array.tobytes()[:64])),
        )
        for size in array.shape:
            entry.shape.dim.add(size=size)
        if name == "model/wte":
            for field, value in changes.items():
                if field == "slices":
                    entry.slices.add()
                elif field == "shape":
                    del entry.shape.dim[:]
                    for size in value:
                        entry.shape.dim.add(size=size)
                else:
                    setattr(entry, field, value)
        entries[name.encode()] = entry.SerializeToString()
        data[i % shards] += array.tobytes()
    return table(entries), data


def openai_arrays(model: GPT) -> dict[str, np.ndarray]:
    """The parameters under OpenAI's names and in its layout."""
    arrays = {}
    for name, array in model.state_dict().items():
        *path, kind = name.split(".")
        short = {"weight": "g" if "ln" in name else "w", "bias": "b"}[kind]
        path = "/".join(path).replace("h/", "h")
        arrays[f"model/{path}" if name in ("wte.weight", "wpe.weight") else f"model/{path}/{short}"] = (
            array.T[None] if ".c_" in name and kind == "weight" else array
        )
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def write(folder, arrays, shards=1, name="model.ckpt", hparams=None, **changes):
    index, data = bundle(arrays, shards, **changes)
    (folder / f"{name}.index").write_bytes(index)
    for i, part in enumerate(data):
        (folder / f"{name}.data-{i:05d}-of-{shards:05d}").write_bytes(part)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n')
    theirs = {"n_vocab": 37, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 12} | (hparams or {})
    (folder / "hparams.json").write_text(json.dumps(theirs))


@pytest.fixture(scope="module")
def model() -> GPT:
    manual_seed(1)
    model = GPT(GPTConfig(**SHAPE))
    for parameter in model.parameters():
        parameter.data = parameter.data + np.random.default_rng(2).normal(0, 0.3, parameter.shape).astype(np.float32)
    return model


@pytest.mark.parametrize(("shards", "name"), [(1, "model.ckpt"), (3, "model-100")])
def test_it_reads_the_model_that_was_written(model, shards, name, tmp_path):
    arrays = openai_arrays(model)
    assert {"model/h11/attn/c_attn/w", "model/ln_f/g", "model/wpe"} < arrays.keys()
    assert arrays["model/h0/mlp/c_fc/w"].shape == (1, 8, 32)
    write(tmp_path, arrays | {"global_step": np.array(7)}, shards, name)
    back = load_model(tmp_path)
    assert back.config == model.config
    for (one_name, one), (_, other) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert np.array_equal(one.data, other.data), one_name
    ids = np.arange(16)[None]
    assert np.array_equal(back(ids).data, model(ids).data)


def test_every_entry_of_a_checkpoint(tmp_path):
    random = np.random.default_rng(0)
    arrays = {f"layer_{i}/weights": random.normal(size=(i + 1, 3)).astype(kind) for i, kind in enumerate(TYPES)}
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays |= {f"many/{'x' * (i % 50)}/{i}": np.full(i % 4, i) for i in range(200)}  # keys in dozens of blocks
    index, (data,) = bundle(arrays)
    (tmp_path / "c.index").write_bytes(index)
    (tmp_path / "c.data-00000-of-00001").write_bytes(data)
    found = open_checkpoint(tmp_path / "c")
    assert found.keys() == arrays.keys()
    for name, stored in found.items():
        assert np.array_equal(stored.read(arrays[name].dtype), arrays[name]), name


def test_crc_of_the_standard():
    """The check value of CRC-32C (RFC 3720, appendix B.4: 32 bytes of zeros)."""
    assert crc32c(bytes(32)) == 0x8A9136AA


DAMAGE = {
    "no index": (lambda f, a: (f / "model.ckpt.index").unlink(), "cannot read .*model.ckpt.index"),
    "no data": (lambda f, a: (f / "model.ckpt.data-00000-of-00001").unlink(), "cannot read .*data-00000-of-00001"),
    "data cut short": (
        lambda f, a: os.truncate(f / "model.ckpt.data-00000-of-00001", 9000),
        "data-00000-of-00001 is cut short: it has 9000 bytes, and .* ends at",
    ),
    "index cut short": (lambda f, a: os.truncate(f / "model.ckpt.index", 900), "index: it is cut short, or no index"),
    "one bit": (
        lambda f, a: (f / "model.ckpt.index").write_bytes(flip((f / "model.ckpt.index").read_bytes(), 40)),
        "the checksum of the block at 0 is another",
    ),
    "size": (lambda f, a: write(f, a, size=1 << 60), r"model/wte of shape \[37, 8\] does not take"),
    "negative": (lambda f, a: write(f, a, offset=-5), "is cut short: it has .* bytes, and model/wte ends at"),
    "shape": (lambda f, a: write(f, a, shape=(1 << 40, 1 << 40)), "model/wte of shape .* does not take 1184 bytes"),
    "other shape": (lambda f, a: write(f, a, shape=(8, 37)), r"wte.weight has shape \(8, 37\), not \(37, 8\)"),
    "type": (lambda f, a: write(f, a, dtype=7), "model/wte is of TensorFlow's type 7"),
    "slices": (lambda f, a: write(f, a, slices=True), "model/wte is stored in slices"),
    "missing": (lambda f, a: write(f, {k: v for k, v in a.items() if k != "model/wpe"}), "wpe.weight is missing"),
    "layers": (lambda f, a: write(f, a, hparams={"n_layer": 10**9}), "1000000000 layers are more than its 148 tensors"),
    "vocabulary": (lambda f, a: write(f, a, hparams={"n_vocab": 10**18}), "no model can be this large|not fit"),
    "hparams": (lambda f, a: write(f, a, hparams={"n_head": "two"}), "hparams.json: n_head is 'two', not int"),
    "checkpoint": (lambda f, a: (f / "checkpoint").write_text("?"), "checkpoint: it has no line like"),
}


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_line(model, damage, tmp_path):
    arrays = openai_arrays(model)
    write(tmp_path, arrays)
    change, message = DAMAGE[damage]
    change(tmp_path, arrays)
    with pytest.raises(UserError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
