"""Writes OpenAI's checkpoints by the format's definition: Google's protocol buffers, in a table built here."""

import json

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tinygrad_llm.models import GPT

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


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
        shared = 0
        while key[shared : shared + 1] == before[shared : shared + 1] != b"":
            shared += 1
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
