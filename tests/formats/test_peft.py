"""Adapters there and back: PEFT loads ours and we load PEFT's, with the same logits and gradients."""

import json

import numpy as np
import pytest

from tinygrad_llm import UserError, manual_seed, tokenizers
from tinygrad_llm.formats import load_model, save_model
from tinygrad_llm.formats.huggingface import load_pretrained
from tinygrad_llm.formats.peft import CONFIG, WEIGHTS, load_adapter, save_adapter
from tinygrad_llm.formats.safetensors import read_arrays, save_arrays
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.nn import LoRAConfig, add_lora, merge
from tinygrad_llm.nn.lora import adapters
from tinygrad_llm.tokenizers import ByteTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = np.random.default_rng(0).integers(0, 97, (2, 9))
LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
MODELS = {
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config, GPT2, "c_attn,c_fc,c_proj"),
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, LLAMA, "q_proj,v_proj"),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, LLAMA, "k_proj,down_proj"),
}


@pytest.fixture(params=MODELS)
def pair(request, tmp_path, float64_throughout):
    """transformers' model, ours with the same weights, both float64, and layers that shall have adapters."""
    model_class, config_class, sizes, target = MODELS[request.param]
    torch.manual_seed(0)
    theirs = model_class(config_class(vocab_size=97, bos_token_id=0, eos_token_id=0, **sizes)).double().eval()
    theirs.save_pretrained(tmp_path / "base")
    return theirs, load_pretrained(tmp_path / "base"), target


def their_adapter(theirs, target, **settings):
    """PEFT's, which changes something."""
    names = target.split(",")
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=names, task_type="CAUSAL_LM", **settings)
    config.init_lora_weights = False  # B is not zero
    config.fan_in_fan_out = isinstance(theirs, transformers.GPT2LMHeadModel)
    return peft.get_peft_model(theirs, config).double().eval()


def our_adapter(ours, target, **settings):
    add_lora(ours, LoRAConfig(rank=3, alpha=5, target=target, **settings))
    for i, layer in enumerate(adapters(ours).values()):
        layer.lora_B.data[...] = np.random.default_rng(i).normal(size=layer.lora_B.shape) / 5
    return ours


def assert_same(ours, theirs):
    """Logits, and the gradients of every adapter."""
    logits = theirs(torch.tensor(IDS)).logits.detach()
    np.testing.assert_allclose(ours(IDS).data, logits, rtol=0, atol=1e-10 * float(logits.abs().max()))
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad = "lora_" in name
    logits = theirs(torch.tensor(IDS)).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(IDS).flatten()).backward()
    ours.zero_grad()
    ours.loss(IDS, IDS).backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    for name, layer in adapters(ours).items():
        for matrix in ("lora_A", "lora_B"):
            (expected,) = [x for key, x in gradients.items() if f".{name}.{matrix}." in key]
            np.testing.assert_allclose(getattr(layer, matrix).grad, expected, rtol=0, atol=1e-10 * abs(expected).max())
    assert len(gradients) == 2 * len(adapters(ours))


@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_theirs(pair, tmp_path, rslora):
    theirs, ours, target = pair
    before = ours(IDS).data
    theirs = their_adapter(theirs, target, use_rslora=rslora, lora_dropout=0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    load_adapter(ours, tmp_path / "adapter")
    assert np.abs(ours(IDS).data - before).max() > 1e-3
    assert_same(ours, theirs)
    config = next(iter(adapters(ours).values())).config
    assert config == LoRAConfig(3, 5, 0.1, ",".join(sorted(target.split(","))), rslora)


@pytest.mark.parametrize("rslora", [False, True])
def test_they_load_ours(pair, tmp_path, rslora):
    theirs, ours, target = pair
    our_adapter(ours, target, rslora=rslora)
    save_adapter(ours, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").double()
    assert_same(ours, theirs)
    theirs.save_pretrained(tmp_path / "again")
    config, again = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("adapter", "again"))
    assert sorted(again["target_modules"]) == config["target_modules"] == sorted(target.split(","))
    assert {name: again[name] for name in config} | {"target_modules": config["target_modules"]} == config
    arrays, again = (read_arrays(tmp_path / name / WEIGHTS) for name in ("adapter", "again"))
    assert arrays.keys() == again.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_some_layers_of_a_name_are_named_in_full(pair, tmp_path):
    theirs, ours, target = pair
    our_adapter(ours, f"1.*.{target.partition(',')[0]}")
    save_adapter(ours, tmp_path / "adapter")
    named = json.loads((tmp_path / "adapter" / CONFIG).read_text())["target_modules"]
    assert named == sorted(adapters(ours))
    assert_same(ours, peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").double())


def test_ours_come_back_to_the_bit_and_merge_as_theirs(pair, tmp_path):
    theirs, ours, target = pair
    expected = our_adapter(ours, target)(IDS).data
    save_adapter(ours, tmp_path / "adapter", base="somebody/model")
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["base_model_name_or_path"] == "somebody/model"
    again = load_pretrained(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    np.testing.assert_array_equal(again(IDS).data, expected)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").double().merge_and_unload()
    merge(again)
    logits = theirs(torch.tensor(IDS)).logits.detach()
    np.testing.assert_allclose(again(IDS).data, logits, rtol=0, atol=1e-10 * float(logits.abs().max()))


@pytest.mark.parametrize("name", ["folder", "model.gguf"])
def test_a_model_with_adapters_is_not_saved_as_if_it_had_none(pair, tmp_path, name):
    _, ours, target = pair
    our_adapter(ours, target)
    with pytest.raises(UserError, match="merge them into it first"):
        save_model(ours, tmp_path / name)
    assert not (tmp_path / name).exists()
    merge(ours)
    if name == "folder":
        save_model(ours, tmp_path / name)
        np.testing.assert_array_equal(load_pretrained(tmp_path / name)(IDS).data, ours(IDS).data)


@pytest.fixture
def saved(pair, tmp_path):
    _, ours, target = pair
    save_adapter(our_adapter(ours, target), tmp_path / "adapter")
    return load_pretrained(tmp_path / "base"), tmp_path / "adapter"


def edited(folder, **entries):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True, which this program does not have"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"c_attn": 4}}, "rank_pattern is"),
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
        ({"r": "8"}, "rank is '8', not int"),
        ({"r": 0}, "rank of an adapter must be at least 1"),
        ({"lora_alpha": float("inf")}, "alpha must be a number above 0"),
        ({"lora_dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"r": 4}, r"lora_A.weight is <f8 of shape \(3, .*\), but this model's has \(4, "),
    ],
)
def test_what_we_do_not_have_is_refused(saved, entries, message):
    model, folder = saved
    edited(folder, **entries)
    with pytest.raises(UserError, match=message) as error:
        load_adapter(model, folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not adapters(model) and all(p.requires_grad for p in model.parameters())


def test_an_adapter_of_another_model_names_what_does_not_fit(saved, tmp_path):
    model, folder = saved
    arrays = read_arrays(folder / WEIGHTS)
    last = max(arrays)
    wrong = {
        "belongs to no linear layer": {k.replace(".1.", ".7."): x for k, x in arrays.items()},
        f"{last} is <f8 of shape": arrays | {last: arrays[last][:-1].copy()},
        f"{last} is missing": {k: x for k, x in arrays.items() if k != last},
        "there are no adapters in it": {},
    }
    for message, tensors in wrong.items():
        save_arrays(tensors, folder / WEIGHTS)
        with pytest.raises(UserError, match=message):
            load_adapter(model, folder)
        assert not adapters(model)


def test_a_folder_without_an_adapter_is_refused(saved, tmp_path):
    model, folder = saved
    with pytest.raises(UserError, match=f"cannot read .*{CONFIG}: No such file"):
        load_adapter(model, tmp_path)
    (folder / WEIGHTS).write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="damaged or no safetensors"):
        load_adapter(model, folder)
    with pytest.raises(UserError, match="no adapters to save"):
        save_adapter(model, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_with_adapters_is_a_model_to_load_with_its_tokenizer(tmp_path):
    manual_seed(0)
    save_model(GPT(GPTConfig(256, 16, 1, 2, 16)), tmp_path / "base", ByteTokenizer())
    ours = our_adapter(load_model(tmp_path / "base"), "c_attn")
    save_adapter(ours, tmp_path / "adapter", str(tmp_path / "base"))
    merged = load_model(tmp_path / "adapter")
    np.testing.assert_allclose(merged(IDS).data, ours.eval()(IDS).data, rtol=0, atol=1e-5)
    assert not adapters(merged) and all(parameter.requires_grad for parameter in merged.parameters())
    assert tokenizers.load(tmp_path / "adapter").vocab_size == 256
    save_adapter(ours, tmp_path / "adapter")
    for load in (load_model, tokenizers.load):
        with pytest.raises(UserError, match="base_model_name_or_path is None, and no model's name or path"):
            load(tmp_path / "adapter")
