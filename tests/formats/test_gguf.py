"""Models in GGUF files compute what transformers computes; saved ones are read back, here and by the package `gguf`."""

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFWriter
from gguf_files import write_gguf

from tinygrad_llm import tokenizers
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.gguf import TYPES, load, read, save
from tinygrad_llm.generation import generate
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.nn import Linear
from tinygrad_llm.nn.quantized import QuantizedLinear

IDS = np.random.default_rng(0).integers(0, 96, (2, 40))
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 500.0,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-6,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "as many heads of keys": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 32},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "yarn, louder": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "attention_factor": 1.5,
            "beta_fast": 4.0,
        }
    },
    "llama3": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8192}},
    "llama3, short": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}},
    "qwen2": {},
    "gpt2": {},
}


def make(variant: str) -> torch.nn.Module:
    """A random model of transformers', every parameter away from its initial zeros and ones."""
    torch.manual_seed(1)
    if variant == "gpt2":
        config = transformers.GPT2Config(vocab_size=96, n_positions=64, n_embd=64, n_layer=3, n_head=4)
        model = transformers.GPT2LMHeadModel(config)
    elif variant == "qwen2":
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE | VARIANTS[variant]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def write_as_llama_cpp_does(model, path) -> None:
    """What llama.cpp's converter writes for a Llama, a Qwen2 or a GPT-2: its metadata, its order of rows."""
    c, kind = model.config, model.config.model_type
    writer = GGUFWriter(path, kind)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_head_count(c.num_attention_heads)
    if kind == "gpt2":
        writer.add_feed_forward_length(4 * c.n_embd)
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
    else:
        scaling = c.rope_parameters
        head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        writer.add_feed_forward_length(c.intermediate_size)
        writer.add_head_count_kv(c.num_key_value_heads)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_freq_base(scaling["rope_theta"])
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
        if scaling["rope_type"] in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType[scaling["rope_type"].upper()])
            writer.add_rope_scaling_factor(scaling["factor"])
        if scaling["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if scaling["rope_type"] == "llama3":
            plain = 1 / scaling["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
            writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32))
    names = gguf.get_tensor_name_map({n: k for k, n in gguf.MODEL_ARCH_NAMES.items()}[kind], c.num_hidden_layers)
    for name, x in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        x = x.numpy()
        if kind == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = c.num_attention_heads if ".q_proj." in name else c.num_key_value_heads
            x = x.reshape(heads, 2, len(x) // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            x = x.T
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(model) -> np.ndarray:
    with no_grad():
        return model(IDS).data


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in ("yarn, louder", "llama3, short")])
def test_logits_are_transformers(tmp_path, variant):
    theirs = make(variant)
    write_as_llama_cpp_does(theirs, tmp_path / "m.gguf")
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    model = load(tmp_path / "m.gguf")
    np.testing.assert_allclose(logits(model), expected, atol=1e-4)
    np.testing.assert_allclose(logits(load(tmp_path / "m.gguf", dtype=np.float64)), expected, atol=1e-4)
    save(model, tmp_path / "again.gguf")
    np.testing.assert_array_equal(logits(load(tmp_path / "again.gguf")), logits(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_files_say_what_llama_cpp_wants(tmp_path, variant):
    theirs = make(variant)
    theirs.save_pretrained(tmp_path / "folder")
    model = load_model(tmp_path / "folder")
    save(model, tmp_path / "m.gguf")
    again = load(tmp_path / "m.gguf")
    for name, x in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], x, err_msg=name)
    np.testing.assert_allclose(logits(again), logits(model), atol=1e-5)
    if variant not in ("yarn, louder", "llama3, short"):
        write_as_llama_cpp_does(theirs, tmp_path / "expected.gguf")
        found, expected = (gguf.GGUFReader(tmp_path / name) for name in ("m.gguf", "expected.gguf"))
        found = {t.name: t.data for t in found.tensors}
        assert found.keys() == {t.name for t in expected.tensors}
        for tensor in expected.tensors:
            np.testing.assert_allclose(found[tensor.name], tensor.data, rtol=1e-5, err_msg=tensor.name)


def llama(**changes) -> Llama:
    shape = {"vocab_size": 96, "block_size": 64, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
    return Llama(LlamaConfig(**{**shape, "intermediate_size": 96, **changes}))


@pytest.mark.parametrize("kind", TYPES)
def test_matrices_become_every_type(tmp_path, kind):
    model = llama(n_embd=72, head_dim=16)  # blocks of 32 do not divide rows of 72, but those of 64 and 96
    save(model, tmp_path / "m.gguf", type=kind)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert types["blk.0.attn_output.weight"] == types["blk.1.ffn_down.weight"] == kind
    assert types["blk.0.attn_q.weight"] == types["output.weight"] == (kind if kind in ("F32", "BF16") else "F16")
    bits = {"F32": 24, "F16": 11, "BF16": 8}.get(kind) or int(kind[1])
    again = load(tmp_path / "m.gguf").state_dict()
    for name, x in model.state_dict().items():
        np.testing.assert_allclose(again[name], x, atol=np.abs(x).max() * 2.0 ** (1 - bits), err_msg=name)


def test_the_embedding_and_the_head_keep_8_bits(tmp_path):
    save(llama(), tmp_path / "m.gguf", type="Q4_0")
    tensors = read(tmp_path / "m.gguf").tensors
    assert {tensors[name].type for name in ("token_embd.weight", "output.weight")} == {"Q8_0"}
    assert tensors["blk.0.ffn_up.weight"].type == "Q4_0"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q4_0"])
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_matrices_stay_so(tmp_path, kind, tied):
    model = llama(tie_weights=tied, attention_bias=True, mlp_bias=True)
    save(model, tmp_path / "m.gguf", type=kind)
    quantized = load(tmp_path / "m.gguf", quantized=True)
    assert isinstance(quantized.layers[1].self_attn.q_proj, QuantizedLinear)
    assert quantized.layers[1].self_attn.q_proj.weight.type == kind
    np.testing.assert_allclose(logits(quantized), logits(load(tmp_path / "m.gguf")), atol=1e-3)
    save(quantized, tmp_path / "again.gguf")
    first, again = (read(tmp_path / name).tensors for name in ("m.gguf", "again.gguf"))
    assert first.keys() == again.keys()
    for name, x in first.items():
        y = again[name]
        np.testing.assert_array_equal(*(z if isinstance(z, np.ndarray) else z.blocks for z in (x, y)), err_msg=name)
    save(quantized, tmp_path / "floats.gguf", type="F32")
    dense = load(tmp_path / "m.gguf").state_dict()
    for name, x in load(tmp_path / "floats.gguf").state_dict().items():
        np.testing.assert_array_equal(x, dense[name], err_msg=name)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_gpt_comes_back_as_it_was(tmp_path, bias, tied):
    config = GPTConfig(96, 64, 2, 4, 32, bias=bias, activation="gelu", tie_weights=tied)
    model = GPT(config)
    save(model, tmp_path / "m.gguf")
    again = load(tmp_path / "m.gguf")
    assert again.config == config and not again.training
    np.testing.assert_array_equal(logits(again), logits(model))
    assert "blk.0.attn_qkv.bias" in read(tmp_path / "m.gguf").tensors  # llama.cpp wants it in any case


def test_what_llama_cpp_lacks_is_refused(tmp_path):
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32}
    with pytest.raises(UserError, match="no rotary embedding scaled"):
        save(llama(rope_scaling=dynamic), tmp_path / "m.gguf")
    with pytest.raises(UserError, match="no type 'Q4_K' to write"):
        save(llama(), tmp_path / "m.gguf", type="Q4_K")
    adapted = llama()
    adapted.layers[0].mlp.adapter = Linear(64, 64)
    with pytest.raises(UserError, match=r"nothing like layers\.0\.mlp\.adapter\.weight"):
        save(adapted, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    with pytest.raises(UserError, match="No space left"):
        save(llama(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"] and path.read_bytes() == b"old"


WRONG = {
    "another architecture": ({"general.architecture": "mamba"}, {}, "its architecture is 'mamba': this program has"),
    "no number": ({"llama.block_count": None}, {}, "it has no llama.block_count"),
    "a number for each layer": ({"llama.attention.head_count": [4, 4]}, {}, r"head_count must be a whole number"),
    "absurdly many layers": ({"llama.block_count": 2**24}, {}, r"block_count is 16777216, but there are 21 tensors"),
    "absurd context": ({"llama.context_length": 2**31 - 1}, {}, "context_length is 2147483647"),
    "absurd width": ({"llama.embedding_length": 2**24}, {}, "has shape"),
    "one layer more": ({"llama.block_count": 3}, {}, r"tensor blk\.2\.attn_norm\.weight is missing"),
    "one layer less": ({"llama.block_count": 1}, {}, r"no tensor blk\.1\.attn_k\.weight"),
    "heads that do not divide": ({"llama.attention.head_count_kv": 3}, {}, "not divisible"),
    "half a rotation": ({"llama.rope.dimension_count": 8}, {}, "rope.dimension_count is 8: this program has 16 only"),
    "an unknown scaling": (
        {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0},
        {},
        "rope_scaling 'longrope' is not one of",
    ),
    "a missing tensor": ({}, {"output_norm.weight": None}, r"tensor output_norm\.weight is missing"),
    "another shape": (
        {},
        {"blk.0.ffn_up.weight": np.zeros((64, 96), np.float32)},
        r"has shape \(64, 96\), not \(96, 64\)",
    ),
    "one tensor too many": (
        {},
        {"blk.0.ffn_gate_exps.weight": np.zeros(3, np.float32)},
        r"no tensor blk\.0\.ffn_gate_exps",
    ),
    "strange frequencies": ({}, {"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}, "not what Llama 3's scaling"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_model_that_does_not_fit_is_refused_in_one_line(tmp_path, wrong):
    changed_values, changed_tensors, message = WRONG[wrong]
    save(llama(), tmp_path / "m.gguf")
    file = read(tmp_path / "m.gguf")
    values = {key: value for key, value in {**file.metadata, **changed_values}.items() if value is not None}
    tensors = {name: x for name, x in {**file.tensors, **changed_tensors}.items() if x is not None}
    write_gguf(tmp_path / "wrong.gguf", values, tensors)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path / "wrong.gguf")
    assert str(caught.value).startswith(f"{tmp_path / 'wrong.gguf'}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("quantized", [True, False])
def test_smollm2_knows_the_capital_of_france(smollm2, quantized):
    model, tokenizer = load(smollm2, quantized=quantized), tokenizers.load(smollm2)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}])
    answer = list(generate(model, ids, 20, temperature=0, stop_tokens=tokenizer.eos_ids))
    assert tokenizer.decode(answer).removesuffix("<|im_end|>") == "The capital of France is Paris."


@pytest.mark.slow
def test_smollm2_is_what_transformers_makes_of_it(smollm2):
    model = load(smollm2, quantized=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name).eval()
    ids = np.random.default_rng(0).integers(0, 49152, (1, 100))
    with torch.no_grad(), no_grad():
        expected, found = theirs(torch.tensor(ids)).logits.numpy(), model(ids).data
    assert np.abs(found - expected).max() < 1e-3 * expected.std()
