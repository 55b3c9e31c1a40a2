"""Models in GGUF files compute what transformers computes; what is saved is read back, here and by the package `gguf`."""

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter

from tinygrad_llm import quantization
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.gguf import TYPES, load, read, save
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
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
