"""Folders that transformers opens: the same logits there, the same bits back here, one clear line for what is wrong."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinygrad_llm import UserError, manual_seed, tokenizers
from tinygrad_llm.formats.huggingface import load_pretrained, save_pretrained
from tinygrad_llm.models import GPT, GPTConfig

TEXT = "the cat sat on the mat\n"
SHAPE = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 6}


def small_gpt(**settings) -> GPT:
    manual_seed(1)
    model = GPT(GPTConfig(**SHAPE | settings))
    for parameter in model.parameters():  # biases and norms start at 0 and 1, where many a mistake does not show
        parameter.data += np.random.default_rng(2).normal(0, 0.3, parameter.shape).astype(parameter.dtype)
    return model


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
def test_transformers_gives_the_same_logits(tmp_path, bias, tie_weights, activation):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = small_gpt(bias=bias, tie_weights=tie_weights, activation=activation).double().eval()
    save_pretrained(model, tmp_path)
    theirs, found = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True
    )
    assert not any(found.values()), found
    ids = np.array([[1, 5, 10, 0, 3, 3, 7, 2], [4, 4, 9, 8, 6, 1, 2, 0]])
    expected = theirs.eval()(torch.tensor(ids)).logits.detach().numpy()
    np.testing.assert_allclose(model(ids).data, expected, rtol=1e-10, atol=1e-12)


VARIANTS = [{}, {"bias": False}, {"tie_weights": False, "dropout": 0.1, "activation": "gelu"}]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_gives_the_same_model_and_the_same_bits(tmp_path, settings, dtype):
    model = small_gpt(**settings).to(np.dtype(dtype))
    save_pretrained(model, tmp_path)
    back = load_pretrained(tmp_path)
    assert back.config == model.config
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, array in model.state_dict().items():
        assert back.state_dict()[name].dtype == array.dtype
        assert back.state_dict()[name].tobytes() == array.tobytes(), name


def test_tokenizer_opens_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = tokenizers.train("char", TEXT)
    save_pretrained(small_gpt(vocab_size=tokenizer.vocab_size), tmp_path, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT).tolist()


def test_reads_what_others_wrote(data_dir):
    """A GPT2Model of Hugging Face's own tests: names without a prefix, and a config.json without our entries."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = data_dir / "tiny-gpt2-hf"
    model = load_pretrained(folder).eval()
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = np.arange(21)[None]
    expected = theirs(torch.tensor(ids)).logits.detach().numpy()
    np.testing.assert_allclose(model(ids).data, expected, rtol=1e-5, atol=1e-6)


def test_biases_that_were_trained_since_are_kept(tmp_path):
    save_pretrained(small_gpt(bias=False), tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    arrays["transformer.ln_f.bias"][3] = 2.0
    save_file(arrays, tmp_path / "model.safetensors")
    back = load_pretrained(tmp_path)
    assert back.config.bias
    assert back.ln_f.bias.data[3] == 2.0


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_arrays(folder, change):
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


DAMAGE = {
    "no folder": (lambda f: f.rename(f.parent / "away"), "no model at"),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot read .*config.json: No such file"),
    "not JSON": (lambda f: (f / "config.json").write_text('{"n_embd": '), "config.json is not whole"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json is not what it should be"),
    "bert": (lambda f: change_config(f, model_type="bert"), "model_type is 'bert', but this program has gpt2, llama"),
    "relu": (lambda f: change_config(f, activation_function="relu"), "no activation 'relu' here"),
    "wide": (lambda f: change_config(f, n_inner=10), "n_inner is 10, but a block here is 4 n_embd = 24 wide"),
    "eps": (lambda f: change_config(f, layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06"),
    "heads": (lambda f: change_config(f, n_head=4), "n_embd 6 is not divisible by n_head 4"),
    "text": (lambda f: change_config(f, n_head="two"), "config.json: n_head is 'two', not int"),
    "layers": (lambda f: change_config(f, n_layer=1), "do not fit its config.json: .*h.1.ln_1.bias is unexpected"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot read .*model.safetensors"),
    "truncated": (lambda f: os.truncate(f / "model.safetensors", 999), "model.safetensors is damaged"),
    "header": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 99), "model.safetensors is damaged"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    "name": (lambda f: change_arrays(f, lambda a: a.pop("transformer.ln_f.weight")), "ln_f.weight is missing"),
    "shape": (
        lambda f: change_arrays(f, lambda a: a.update({"transformer.wpe.weight": np.zeros((7, 6), np.float32)})),
        r"wpe.weight has shape \(7, 6\), not \(8, 6\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_line(tmp_path, damage):
    folder = tmp_path / "model"
    save_pretrained(small_gpt(), folder)
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)
