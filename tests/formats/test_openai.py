"""OpenAI's checkpoints: what an independent writer wrote is read, and what is damaged is one clear line."""

import os

import numpy as np
import pytest
from openai_checkpoint import TYPES, bundle, crc32c, openai_arrays, write

from tinygrad_llm import UserError, manual_seed
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.tensorflow import open_checkpoint
from tinygrad_llm.models import GPT, GPTConfig

SHAPE = {"vocab_size": 37, "block_size": 16, "n_layer": 12, "n_head": 2, "n_embd": 8}


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
