"""GGUF files that were altered are refused in one line or give a model that computes; nothing crashes, hangs or grows.

The seeds are built here: small models of every architecture and several types, with vocabularies of each kind. Two
things are altered: bytes, above all those of the header, and, in files that are whole, what the header says.
"""

import struct
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from gguf_files import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygrad_llm import tokenizers
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import gguf, gguf_reader
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig

LLAMA = {"vocab_size": 300, "block_size": 32, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 8192
TEXT = "the cat sat on the mat, the rat sat on the cat. " * 20
BYTES = [
    *(struct.pack("<Q", n) for n in (0, 1, 2**31, 2**32 - 1, 2**32, 2**60, 2**63 - 1, 2**63, 2**64 - 1)),
    *(struct.pack("<I", n) for n in (0, 1, 2, 7, 8, 9, 12, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)),
    *(struct.pack("<f", x) for x in (0.0, -1.0, 1e-38, 3e38, float("inf"), float("nan"))),
    b"\x00",
    b"\xff",
]
VALUES = [0, 1, 2, 3, 2**24, 2**31 - 1, 2**31, 2**32 - 1, -1, -(2**31), 2**63, 0.0, -1.0, 1e-38, 1e38, np.inf, np.nan]
VALUES += [
    True,
    False,
    "x",
    "llama",
    "gpt2",
    "no_vocab",
    "{% for x in y %}",
    [0],
    [2**31 - 1, 0, 7],
    [1.5],
    ["a"],
    ["a", "a"],
]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("seeds")
    bpe, char = tokenizers.train("bpe", TEXT, 280), tokenizers.train("char", TEXT)
    bpe.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    shape = {**LLAMA, "intermediate_size": 64}
    models = [
        (Llama(LlamaConfig(**shape, tie_weights=True)), bpe, "Q4_1"),
        (Llama(LlamaConfig(**shape, rope_scaling=LLAMA3, mlp_bias=True)), None, "Q8_0"),
        (Llama(LlamaConfig(**shape, rope_scaling=YARN, attention_bias=True)), _sentencepiece(folder), "F16"),
        (GPT(GPTConfig(vocab_size=300, block_size=16, n_layer=1, n_head=2, n_embd=32)), bpe, "BF16"),
        (GPT(GPTConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=32, bias=False)), char, "F32"),
    ]
    paths = []
    for i, (model, tokenizer, kind) in enumerate(models):
        path = folder / f"{i}.gguf"
        gguf.save(model, path, tokenizer, type=kind)
        assert use(path) == ["read", "load", "load quantized"] + ["tokenizer"] * bool(tokenizer)
        paths.append(path)
    return paths


def _sentencepiece(folder: Path):
    import sentencepiece

    (folder / "text.txt").write_text(TEXT)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=290,
        byte_fallback=True,
        minloglevel=2,
    )
    return tokenizers.load(folder / "tokenizer.model")


def fields(path: Path) -> list[int]:
    """Where fields of the header begin, the first and the last ones: between them are the words of the vocabulary."""

    class Recorder(gguf_reader._Header):
        def take(self, n, what="the header"):
            starts.append(self.position)
            return super().take(n, what)

    starts: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf_reader, "_Header", Recorder)
        gguf_reader.read(path)
    return starts[:100] + starts[-200:]


def use(path: Path) -> list[str]:
    """What a file is good for; UserErrors of one line are the only other outcome."""
    good = []
    for name, call in {
        "read": lambda: [x.sum() if isinstance(x, np.ndarray) else x.dequantize() for x in read_all(path)],
        "load": lambda: compute(gguf.load(path)),
        "load quantized": lambda: compute(gguf.load(path, quantized=True)),
        "tokenizer": lambda: tokenizers.load(path).encode("the cat"),
    }.items():
        try:
            call()
            good.append(name)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
    return good


def read_all(path: Path):
    return gguf.read(path).tensors.values()


def compute(model) -> None:
    with no_grad():
        assert model(np.zeros((1, 3), int)).shape == (1, 3, model.config.vocab_size)


def other_bytes(draw, paths: list[Path]) -> bytes:
    path = draw(st.sampled_from(paths))
    data = path.read_bytes()
    places = st.one_of(st.sampled_from(fields(path)), st.integers(0, len(data) - 1))
    for _ in range(draw(st.integers(1, 3))):
        how, at = draw(st.sampled_from(["overwrite", "overwrite", "insert", "remove", "cut"])), draw(places)
        value = draw(st.one_of(st.sampled_from(BYTES), st.binary(min_size=1, max_size=32)))
        rest = {"overwrite": at + len(value), "insert": at, "remove": at + len(value), "cut": len(data)}[how]
        data = data[:at] + (b"" if how in ("remove", "cut") else value) + data[rest:]
    return data


def other_content(draw, paths: list[Path]) -> tuple[dict, dict]:
    """The metadata and the tensors of a file, one to three of them not as they were."""
    file = gguf.read(draw(st.sampled_from(paths)))
    values = {key: x.tolist() if isinstance(x, np.ndarray) else x for key, x in file.metadata.items()}
    tensors = dict(file.tensors)
    for _ in range(draw(st.integers(1, 3))):
        key, name = draw(st.sampled_from(sorted(values))), draw(st.sampled_from(sorted(tensors)))
        match draw(st.sampled_from(["value", "value", "no value", "list", "no tensor", "name", "shape", "numbers"])):
            case "value":
                values[key] = draw(st.sampled_from(VALUES))
            case "no value":
                del values[key]
            case "list" if lists := [k for k, v in values.items() if isinstance(v, list) and len(v) > 1]:
                key = draw(st.sampled_from(lists))
                changed = list(values[key])
                changed[draw(st.integers(0, len(changed) - 1))] = changed[0]
                values[key] = changed[: draw(st.integers(1, len(changed)))]
            case "no tensor":
                del tensors[name]
            case "name":
                tensors[draw(st.sampled_from([*sorted(tensors), "rope_freqs.weight", "blk.0.attn_q.bias"]))] = tensors[
                    name
                ]
            case "shape" if isinstance(tensors[name], np.ndarray):
                tensors[name] = draw(st.sampled_from([tensors[name].T, tensors[name].reshape(-1), tensors[name][:1]]))
            case "numbers" if isinstance(tensors[name], np.ndarray):
                tensors[name] = np.full_like(tensors[name], draw(st.sampled_from([0, -1, np.inf, np.nan])))
    return values, tensors


def check(path: Path) -> None:
    tracemalloc.start()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that overflow
        use(path)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10 and peak < 20e6


def fuzz(seeds: list[Path], path: Path, what: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data):
        if what == "bytes":
            path.write_bytes(other_bytes(data.draw, seeds))
        else:
            write_gguf(path, *other_content(data.draw, seeds))
        check(path)

    run()


@pytest.mark.parametrize("what", ["bytes", "content"])
def test_altered_files_are_refused_or_good(seeds, tmp_path, what):
    fuzz(seeds, tmp_path / "altered.gguf", what, 50)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bytes", "content"])
def test_thousands_of_altered_files(seeds, tmp_path, what):
    fuzz(seeds, tmp_path / "altered.gguf", what, 2_000)
