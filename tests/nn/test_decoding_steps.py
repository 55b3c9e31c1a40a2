"""The kernel of decoding gives what the blocks' modules give, which other tests compare with PyTorch."""

import numpy as np
import pytest

from tinygrad_llm import kernels, manual_seed, no_grad
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.nn import use_quantized
from tinygrad_llm.quantization import TYPES, quantize

SIZES = {"vocab_size": 97, "block_size": 32, "n_layer": 2, "n_embd": 96}
MODELS = {
    "gpt2": lambda: GPT(GPTConfig(**SIZES, n_head=3)),
    "nanogpt": lambda: GPT(GPTConfig(**SIZES, n_head=2, bias=False, activation="gelu")),
    "llama": lambda: Llama(LlamaConfig(**SIZES, n_head=6, n_kv_head=2, intermediate_size=160)),
    "biases": lambda: Llama(
        LlamaConfig(
            **SIZES, n_head=4, n_kv_head=1, head_dim=40, intermediate_size=96,
            attention_bias=True, attention_output_bias=True, mlp_bias=True,
        )
    ),
}


def noisy(name: str, dtype):
    """The model with numbers large enough for every part to show."""
    manual_seed(0)
    model, random = MODELS[name]().to(dtype).eval(), np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * random.normal(size=parameter.shape).astype(dtype)
    return model


def decode(model, batch: int, padding, kernel_set: str) -> np.ndarray:
    """The logits of a prompt's last token and of five tokens more."""
    ids = np.random.default_rng(0).integers(0, 97, (batch, 12))
    with kernels.use(kernel_set), no_grad():
        cache = model.new_cache(batch, 12, padding)
        logits = [model(ids[:, :7], cache).data[:, -1:]]
        logits += [model(ids[:, i : i + 1], cache).data for i in range(7, 12)]
    assert cache.length == 12
    return np.concatenate(logits, axis=1)


@pytest.fixture
def seen(monkeypatch):
    """How many times the kernel for all blocks ran."""
    from tinygrad_llm.kernels.numba.decoding import Steps

    calls, step = [], Steps.__call__
    monkeypatch.setattr(Steps, "__call__", lambda *inputs: calls.append(1) or step(*inputs))
    return calls


@pytest.mark.parametrize(("batch", "padding"), [(1, None), (3, [0, 2, 5])])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_the_kernel_gives_what_the_modules_give(name, dtype, batch, padding, seen):
    model = noisy(name, dtype)
    expected = decode(model, batch, padding, "numpy")
    assert not seen
    limit = {"float64": 1e-12, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(decode(model, batch, padding, "numba"), expected, atol=limit * np.abs(expected).max())
    assert len(seen) == 5


@pytest.mark.parametrize("type", TYPES)
def test_on_quantized_weights(type, seen):
    model = noisy("llama", "float32")
    use_quantized(model, {n: quantize(p.data, type) for n, p in model.named_parameters() if p.ndim == 2})
    expected = decode(model, 2, None, "numpy")
    np.testing.assert_allclose(decode(model, 2, None, "numba"), expected, atol=1e-5 * np.abs(expected).max())
    assert len(seen) == 5


def test_gradients_and_dropout_are_the_modules_affair(seen):
    model = noisy("llama", "float32")
    cache = model.new_cache(1)
    model(np.array([[3]]), cache).sum().backward()
    assert model.layers[0].mlp.up_proj.weight.grad is not None
    with no_grad():
        model.train()(np.array([[3]]), cache)
    assert not seen
