"""llama.cpp opens our GGUF files and computes what we compute; and the other way round for a published one.

It computes with activations that it rounds to 8 bits, and with keys and values of half precision, so that its logits
differ by some tenths where weights are quantized; then a token that leads by less than that may lose.
"""

import numpy as np
import pytest

from tinygrad_llm import tokenizers
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.formats import gguf
from tinygrad_llm.generation import generate
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: the oracle of GGUF files")
pytestmark = pytest.mark.slow

TEXT = "the cat sat on the mat, the rat sat on the cat. " * 20
SHAPE = {"vocab_size": 300, "block_size": 128, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
SHAPE["intermediate_size"] = 96
LENGTH = {"original_max_position_embeddings": 32}
MODELS = {
    "llama": lambda: Llama(LlamaConfig(**SHAPE)),
    "llama with biases": lambda: Llama(LlamaConfig(**SHAPE, attention_bias=True, attention_output_bias=True)),
    "llama, wide heads": lambda: Llama(LlamaConfig(**SHAPE, head_dim=32, tie_weights=True)),
    "llama, linear": lambda: Llama(LlamaConfig(**SHAPE, rope_scaling={"rope_type": "linear", "factor": 3.0})),
    "llama, yarn": lambda: Llama(LlamaConfig(**SHAPE, rope_scaling={"rope_type": "yarn", "factor": 4.0} | LENGTH)),
    "llama, yarn, louder": lambda: Llama(
        LlamaConfig(**SHAPE, rope_scaling={"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.4} | LENGTH)
    ),
    "llama3": lambda: Llama(
        LlamaConfig(
            **SHAPE,
            rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | LENGTH,
        )
    ),
    "qwen2": lambda: Llama(LlamaConfig(**SHAPE, attention_bias=True)),
    "gpt2": lambda: GPT(GPTConfig(300, 128, 2, 4, 64)),
    "gpt2 without biases": lambda: GPT(GPTConfig(300, 128, 2, 4, 64, bias=False, tie_weights=False)),
}


def opened(path, **settings):
    return llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1, **settings)


def greedy(theirs, ids: list[int], count: int) -> list[int]:
    tokens = theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
    return [next(tokens) for _ in range(count)]


def both_logits(model, theirs, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    theirs.reset()
    theirs.eval(ids)
    with no_grad():
        return model(np.array([ids])).data[0], np.array(theirs.scores[: len(ids)])


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_computes_the_same_from_our_files(tmp_path, kind):
    model, tokenizer = MODELS[kind](), tokenizers.train("bpe", TEXT, 290)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():  # larger than at the start, so that tokens lead clearly
        parameter.data = parameter.data * 3 + rng.normal(0, 0.1, parameter.shape).astype(np.float32)
    gguf.save(model, tmp_path / "m.gguf", tokenizer)
    theirs = opened(tmp_path / "m.gguf", type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    ids = tokenizer.encode("the cat sat on the mat").tolist()
    assert theirs.tokenize(b"the cat sat on the mat", add_bos=False) == ids
    ours = list(generate(model, ids, 64, temperature=0))
    assert greedy(theirs, ids, 64) == ours
    a, b = both_logits(model, theirs, ids + ours)
    tolerance = 1e-2 if kind.startswith("gpt2") else 2e-4  # it looks GELU up in a table of half-precision numbers
    assert np.abs(a - b).max() < tolerance * a.std()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1", "Q4_0", "Q5_0", "Q5_1"])
def test_llama_cpp_reads_every_type(tmp_path, kind):
    model = Llama(LlamaConfig(**SHAPE))
    gguf.save(model, tmp_path / "m.gguf", type=kind)
    ids = np.random.default_rng(0).integers(0, 300, 64).tolist()
    a, b = both_logits(gguf.load(tmp_path / "m.gguf"), opened(tmp_path / "m.gguf"), ids)
    assert np.abs(a - b).max() < 0.05 * a.std()


def test_smollm2_continues_as_in_llama_cpp(smollm2):
    model, tokenizer, theirs = gguf.load(smollm2, quantized=True), tokenizers.load(smollm2), opened(smollm2)
    ids = tokenizer.encode("The three largest cities of France are").tolist()
    ours = list(generate(model, ids, 64, temperature=0))
    assert greedy(theirs, ids, 64) == ours
    a, b = both_logits(model, theirs, ids + ours)
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.05 * a.std()
    lead = np.diff(np.sort(a, axis=-1)[:, -2:])[:, 0]
    differ = a.argmax(-1) != b.argmax(-1)
    assert differ.mean() < 0.05 and (lead[differ] < 0.5).all()
