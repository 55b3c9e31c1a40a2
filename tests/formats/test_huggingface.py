"""Folders that transformers opens: the same logits there, the same bits back here, one clear line for what is wrong."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinygrad_llm import UserError, manual_seed, tokenizers
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.huggingface import load_pretrained, save_pretrained
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig

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
    "endless": (lambda f: change_config(f, n_layer=10**9), "1000000000 layers are more than its 28 tensors"),
    "vocabulary": (lambda f: change_config(f, vocab_size=10**12), r"wte.weight has shape \(11, 6\), not \(10+, 6\)"),
    "too large": (lambda f: change_config(f, vocab_size=10**18, n_embd=10**18), "no model can be this large"),
    "integers": (
        lambda f: change_arrays(f, lambda a: a.update({"transformer.wpe.weight": np.zeros((8, 6), np.int32)})),
        "wpe.weight is of type <i4, which is not floating",
    ),
    "another's": (
        lambda f: change_arrays(f, lambda a: [a.update({f"x.{k}": a.pop(k)}) for k in list(a)]),
        r"h\.0\.attn\.c_attn\.bias is missing; .*; and 51 more$",
    ),
    "shape": (
        lambda f: change_arrays(f, lambda a: a.update({"transformer.wpe.weight": np.zeros((7, 6), np.float32)})),
        r"wpe.weight has shape \(7, 6\), not \(8, 6\)",
    ),
}  # fmt: skip


def change_header(change):
    """Alter what a safetensors file's header says of its first tensor."""

    def altered(folder):
        path = folder / "model.safetensors"
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        change(next(entry for name, entry in header.items() if name != "__metadata__"))
        new = json.dumps(header).encode()
        path.write_bytes(len(new).to_bytes(8, "little") + new + content[end:])

    return altered


DAMAGE |= {
    "dtype": (change_header(lambda entry: entry.update(dtype="F4")), "has the dtype 'F4': this program has F64"),
    "no dtype": (change_header(lambda entry: entry.pop("dtype")), "model.safetensors .* has no entry 'dtype'"),
    "offsets": (change_header(lambda entry: entry.update(data_offsets=[0, 2**62])), "model.safetensors is damaged"),
    "negative": (change_header(lambda entry: entry["shape"].append(-1)), "must be whole numbers from 0 on"),
    "absurd": (change_header(lambda entry: entry.update(shape=[2**60, 2**60])), "does not fill"),
    "axes": (change_header(lambda entry: entry.update(shape=[1] * 10**5)), "and not too many"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_line(tmp_path, damage):
    folder = tmp_path / "model"
    save_pretrained(small_gpt(), folder)
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)


INDEX = "model.safetensors.index.json"


def in_two_files(folder):
    """A model whose weights are in two files."""
    save_pretrained(small_gpt(), folder)
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {name: f"model-{1 + ('mlp' in name):05d}-of-00002.safetensors" for name in arrays}
    for part in set(parts.values()):
        save_file({name: x for name, x in arrays.items() if parts[name] == part}, folder / part)
    (folder / INDEX).write_text(json.dumps({"weight_map": parts}))


def change_index(change):
    def altered(folder):
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return altered


SHARDED_DAMAGE = {
    "missing": (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "cannot read .*model-00002-of-00002"),
    "truncated": (lambda f: os.truncate(f / "model-00001-of-00002.safetensors", 999), "model-00001-of-.* is damaged"),
    "elsewhere": (
        change_index(lambda m: m.update({"transformer.wpe.weight": "model-00002-of-00002.safetensors"})),
        "transformer.wpe.weight is not in model-00002-of-00002.safetensors",
    ),
    "outside": (
        change_index(lambda m: m.update({"transformer.wpe.weight": "../secret.safetensors"})),
        "'../secret.safetensors' is no name of a file beside it",
    ),
    "left out": (change_index(lambda m: m.pop("transformer.wpe.weight")), "wpe.weight is missing"),
    "no map": (lambda f: (f / INDEX).write_text("{}"), "index.json .* has no entry 'weight_map'"),
}


@pytest.mark.parametrize("damage", SHARDED_DAMAGE)
def test_damage_to_several_files_is_one_clear_line(tmp_path, damage):
    folder = tmp_path / "model"
    in_two_files(folder)
    for name, array in load_pretrained(folder).state_dict().items():
        assert np.array_equal(array, small_gpt().state_dict()[name])
    change, message = SHARDED_DAMAGE[damage]
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)


LLAMA = {"vocab_size": 11, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8, "intermediate_size": 6}
LLAMA_DAMAGE = {
    "activation": ({"hidden_act": "relu"}, "hidden_act is 'relu', but this program has 'silu' only"),
    "window": ({"use_sliding_window": True}, "use_sliding_window is True"),
    "scaling": ({"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling 'longrope' is not one of linear"),
    "no factor": ({"rope_scaling": {"type": "linear"}}, "rope_scaling 'linear' needs a number above 0 as factor"),
    "text as factor": ({"rope_scaling": {"type": "dynamic", "factor": "two"}}, "config.json"),
    "quantized": ({"quantization_config": {"bits": 4}}, "its weights are quantized"),
    "groups": ({"num_key_value_heads": 3}, "n_head 2 is not divisible by n_kv_head 3"),
    "untied": ({"tie_word_embeddings": True, "num_hidden_layers": 2}, "layers.1.* is missing"),
}


@pytest.mark.parametrize("damage", LLAMA_DAMAGE)
def test_a_llama_that_this_program_lacks(tmp_path, damage):
    save_pretrained(Llama(LlamaConfig(**LLAMA)), tmp_path)
    changes, message = LLAMA_DAMAGE[damage]
    change_config(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_larger_than_the_embedding(tmp_path):
    with pytest.raises(UserError, match="the tokenizer has 256 tokens, and the model embeds 11"):
        save_pretrained(small_gpt(), tmp_path, tokenizers.load("byte"))


def test_a_source_that_is_no_model(tmp_path):
    for source in (tmp_path, tmp_path / "none", "no-such-model"):
        with pytest.raises(UserError, match=r"there is no model at .*: give a run folder or a checkpoint in one"):
            load_model(source)


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    model = GPT(GPTConfig(vocab_size=3000, block_size=64, n_layer=2, n_head=4, n_embd=128))
    save_pretrained(model, tmp_path)
    tracemalloc.start()
    loaded = load_pretrained(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * sum(parameter.data.nbytes for parameter in loaded.parameters())


def test_the_weights_are_as_readable_as_the_other_files(tmp_path):
    save_pretrained(GPT(GPTConfig(vocab_size=7, block_size=4, n_layer=1, n_head=1, n_embd=4)), tmp_path)
    assert len({(tmp_path / name).stat().st_mode for name in ("model.safetensors", "config.json")}) == 1
