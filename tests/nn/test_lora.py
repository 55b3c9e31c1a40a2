"""Adapters: what they change and what not, who gets a gradient, and what is computed for it."""

import numpy as np
import pytest
import torch

from tinygrad_llm import Tensor, UserError, no_grad, random, watch
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.nn import (
    Linear,
    LoRAConfig,
    LoRALinear,
    QuantizedLinear,
    add_lora,
    lora_parameters,
    merge,
    unmerge,
    use_quantized,
)
from tinygrad_llm.nn.lora import adapters
from tinygrad_llm.quantization import quantize
from tinygrad_llm.roofline import WorkCounter

IDS = np.random.default_rng(0).integers(0, 33, (2, 9))
LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")


@pytest.fixture(params=["gpt", "llama"])
def model(request):
    random.manual_seed(0)
    if request.param == "gpt":
        return GPT(GPTConfig(vocab_size=33, block_size=32, n_layer=2, n_head=4, n_embd=32))
    return Llama(LlamaConfig(33, 32, 2, n_head=4, n_kv_head=2, n_embd=32, intermediate_size=64))


def trained(model, config=LoRAConfig(rank=3)):  # noqa: B008, as it is frozen
    """With adapters that change something."""
    add_lora(model, config)
    for i, layer in enumerate(adapters(model).values()):
        layer.lora_B.data[...] = np.random.default_rng(i).normal(size=layer.lora_B.shape) / 10
    return model


def test_a_fresh_adapter_changes_nothing(model):
    before = model(IDS).data
    add_lora(model, LoRAConfig(dropout=0.5))
    np.testing.assert_array_equal(model(IDS).data, before)


def test_adapters_alone_have_gradients(model):
    trained(model).loss(IDS, IDS).backward()
    parameters = dict(model.named_parameters())
    assert {name for name, p in parameters.items() if p.grad is not None} == {n for n in parameters if "lora_" in n}
    assert [id(p) for p in lora_parameters(model)] == [id(p) for p in parameters.values() if p.requires_grad]
    assert all(np.abs(p.grad).max() > 0 for p in lora_parameters(model))


def test_frozen_weights_gradients_are_not_computed(model):
    """Back through a frozen layer goes one product of its size, not two; through the first ones, none."""
    trained(model)
    counter, flops, shapes = WorkCounter(), {}, []

    def hook(phase, name, inputs, outputs, seconds):
        flops[phase, name] = flops.get((phase, name), 0) + counter(phase, name, inputs, outputs).flops
        if phase == "backward" and name == "lora_linear":
            shapes.append([None if x is None else x.shape for x in outputs])

    with watch(hook):
        model.loss(IDS, IDS).backward()
    layers = adapters(model)
    first = {name for name in layers if name.startswith(("h.0.attn.c_attn", *(f"layers.0.{x}" for x in LAYERS[:3])))}
    back = 0  # multiplications for each row
    for name, layer in layers.items():
        back += 2 * layer.lora_B.numel() + layer.lora_A.numel()
        back += 0 if name in first else layer.base.weight.numel() + layer.lora_A.numel()
    assert flops["backward", "lora_linear"] == 2 * IDS.size * back
    assert len(shapes) == len(layers) and all(weight is bias is None for _, weight, bias, _, _ in shapes)
    assert sum(x is None for x, *_ in shapes) == len(first)


def test_merged_equals_unmerged_and_unmerging_is_exact(model):
    names, before = list(model.state_dict()), {name: x.copy() for name, x in model.state_dict().items()}
    expected = trained(model).eval()(IDS).data
    state = {name: x.copy() for name, x in model.state_dict().items()}
    layers = merge(model)
    assert list(model.state_dict()) == names and not adapters(model)
    assert any((x != before[name]).any() for name, x in model.state_dict().items())
    np.testing.assert_allclose(model(IDS).data, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    unmerge(model, layers)
    for name, x in model.state_dict().items():
        np.testing.assert_array_equal(x, state[name], err_msg=name)
    np.testing.assert_array_equal(model(IDS).data, expected)


def test_a_model_with_adapters_decodes(model):
    """One token at a time with a cache, as all at once."""
    trained(model).eval()
    expected = model(IDS).data
    with no_grad():
        cache = model.new_cache(2)
        steps = [model(IDS[:, i : i + 1], cache).data for i in range(IDS.shape[1])]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("rslora", "scale"), [(False, 16 / 9), (True, 16 / 3)])
def test_scale(rslora, scale):
    layer = LoRALinear(Linear(7, 5), LoRAConfig(rank=9, alpha=16, rslora=rslora))
    assert np.abs(layer.lora_A.data).max() <= 1 / np.sqrt(7) and np.std(layer.lora_A.data) > 0.15
    layer.lora_B.data[...] = 1
    x = Tensor(np.ones((1, 7), np.float32))
    difference = layer(x).data - layer.base(x).data
    np.testing.assert_allclose(difference, np.full((1, 5), scale * layer.lora_A.data.sum()), rtol=1e-4, atol=1e-5)


def test_dropout_is_of_the_adapters_input_while_training():
    layer = LoRALinear(Linear(64, 1, bias=False), LoRAConfig(rank=1, alpha=1, dropout=0.25))
    layer.base.weight.data[...] = 0
    layer.lora_A.data[...] = layer.lora_B.data[...] = 1
    x = Tensor(np.ones((1000, 64), np.float32))
    kept = layer(x).data * 0.75
    np.testing.assert_allclose(kept, kept.round(), atol=1e-4)
    assert kept.mean() == pytest.approx(48, abs=0.5) and kept.std() == pytest.approx(np.sqrt(12), rel=0.1)
    assert (layer.eval()(x).data == 64).all()


def test_targets_are_names_or_their_ends(model):
    gpt = isinstance(model, GPT)
    add_lora(model, LoRAConfig(target="h.1.*.c_proj, c_fc" if gpt else "layers.1.*.?_proj, up_proj"))
    expected = ["h.0.mlp.c_fc", "h.1.attn.c_proj", "h.1.mlp.c_fc", "h.1.mlp.c_proj"]
    if not gpt:
        expected = ["layers.0.mlp.up_proj", *(f"layers.1.{name}" for name in LAYERS), "layers.1.mlp.up_proj"]
    assert list(adapters(model)) == expected
    with pytest.raises(UserError, match="has adapters already"):
        add_lora(model, LoRAConfig())


def test_a_name_of_no_layer_is_refused(model):
    with pytest.raises(UserError, match="no block has a linear layer 'lm_head': there are"):
        add_lora(model, LoRAConfig(target="*_proj,lm_head"))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("values", [{"rank": 0}, {"dropout": 1.0}, {"alpha": 0.0}, {"alpha": float("nan")}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        LoRAConfig(**values)


@pytest.mark.parametrize("type", ["Q8_0", "Q4_1", "Q4_0"])
def test_a_quantized_base_is_pytorchs_on_its_numbers(type):
    """QLoRA: the output, and the gradients of the input and of the adapter."""
    random.manual_seed(0)
    draw = np.random.default_rng(0)
    numbers, bias = draw.normal(size=(33, 64)).astype(np.float32), draw.normal(size=33).astype(np.float32)
    weight = quantize(numbers, type)
    layer = LoRALinear(QuantizedLinear(weight, bias), LoRAConfig(rank=5))
    layer.lora_B.data[...] = draw.normal(size=(33, 5))
    x = Tensor(draw.normal(size=(3, 7, 64)).astype(np.float32), requires_grad=True)
    y = layer(x)
    (y * y).sum().backward()
    a, b, their_x = (torch.tensor(p.data, requires_grad=True) for p in (layer.lora_A, layer.lora_B, x))
    expected = torch.nn.functional.linear(their_x, torch.tensor(weight.dequantize()), torch.tensor(bias))
    expected = expected + layer.config.scale * (their_x @ a.T @ b.T)
    (expected * expected).sum().backward()
    gradients = ((layer.lora_A.grad, a.grad), (layer.lora_B.grad, b.grad), (x.grad, their_x.grad))
    for ours, theirs in ((y.data, expected.detach()), *gradients):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert layer.base.bias.grad is None


def test_a_quantized_model_is_trained_and_merged():
    model = Llama(LlamaConfig(33, 32, 2, n_head=4, n_kv_head=2, n_embd=32, intermediate_size=64))
    use_quantized(model, {f"{n}.weight": quantize(x.weight.data, "Q8_0") for n, x in named_linears(model)})
    plain = model(IDS).data
    add_lora(model, LoRAConfig(rank=2))
    np.testing.assert_array_equal(model(IDS).data, plain)
    model.loss(IDS, IDS).backward()
    for p in lora_parameters(model):
        p.data -= p.grad
    expected = model(IDS).data
    layers = merge(model)
    assert {type(layer) for _, layer in named_linears(model)} == {Linear}
    np.testing.assert_allclose(model(IDS).data, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    unmerge(model, layers)
    np.testing.assert_array_equal(model(IDS).data, expected)


def named_linears(model):
    for i, block in enumerate(model.layers):
        for part, name in [(block.self_attn, "self_attn"), (block.mlp, "mlp")]:
            yield from ((f"layers.{i}.{name}.{n}", x) for n, x in part.named_children())
