"""The locator: models that agree, faults planted in PyTorch's and in ours, and what the verdict names."""

import json
import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from tinygrad_llm import UserError, compare, manual_seed, replay
from tinygrad_llm import functional as F
from tinygrad_llm.formats.huggingface import to_huggingface
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.nn import LayerNorm, Linear, Module
from tinygrad_llm.optim import AdamW
from tinygrad_llm.reference import gpt as reference

SHAPE = {"vocab_size": 300, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}
BATCH = tuple(np.random.default_rng(0).integers(0, 65, (2, 2, 9)))


def ours() -> GPT:
    manual_seed(3)
    model = GPT(GPTConfig(**SHAPE)).eval()
    random = np.random.default_rng(1)
    for parameter in model.parameters():  # trained a little, as it were: no bias is zero, no weight one
        parameter.data += random.normal(0, 0.1, parameter.shape).astype(np.float32)
    return model


def twin(model: GPT) -> reference.GPT:
    theirs = reference.GPT(model.config).eval()
    theirs.load_state_dict({name: torch.tensor(x) for name, x in model.state_dict().items()})
    return theirs


def gpt2(model: GPT) -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(vocab_size=300, n_positions=16, n_layer=2, n_head=2, n_embd=16)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict({k: torch.tensor(x.copy()) for k, x in to_huggingface(model).items()}, strict=False)
    return theirs


def llamas() -> tuple[Llama, transformers.LlamaForCausalLM]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=300, num_hidden_layers=2, rms_norm_eps=1e-5, **sizes)
    theirs = transformers.LlamaForCausalLM(config).eval()
    manual_seed(0)
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 24, "intermediate_size": 40}
    model = Llama(LlamaConfig(vocab_size=300, block_size=16, norm_eps=1e-5, **shape)).eval()
    model.load_state_dict({k.removeprefix("model."): x.numpy() for k, x in theirs.state_dict().items()})
    return model, theirs


@pytest.mark.parametrize("other", [twin, gpt2])
def test_what_is_the_same_agrees_forward_backward_and_in_training(other):
    model = ours()
    before = {name: x.copy() for name, x in model.state_dict().items()}
    found = compare(model, other(model), BATCH, steps=2)
    assert found.agrees, str(found)
    assert len(found.forward) > 20
    assert {row.key[0] for row in found.backward if row.key[1] == "gradient"} >= set(before)
    assert len(found.steps) == 2
    assert all(np.array_equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_model_that_rounds_to_float32_gets_the_room_for_it_and_no_more():
    model, theirs = llamas()
    found = compare(model, theirs, BATCH)
    assert found.agrees, str(found)
    assert 1e-9 < found.forward[-1].limit < 1e-4
    theirs.model.layers[1].post_attention_layernorm.variance_epsilon = 1e-6
    found = compare(model, theirs, BATCH)
    assert (found.phase, found.place) == ("forward", "layers.1.post_attention_layernorm")
    assert "eps=1e-06 instead of 1e-05" in str(found)


def transposed(theirs):
    weight = theirs.h[1].attn["c_proj"].weight
    weight.data = weight.data.T.contiguous()


def smaller_eps(theirs):
    theirs.h[1].ln_2.eps = 1e-6


def exact_gelu(theirs):
    theirs.h[0].approximate = "none"


def no_key_bias(theirs):
    theirs.h[1].attn["c_attn"].bias.data[16:32] = 0


@pytest.mark.parametrize(
    ("fault", "place", "words"),
    [
        (transposed, "h.1.attn.c_proj", "h.1.attn.c_proj.weight is the transpose of theirs"),
        (smaller_eps, "h.1.ln_2", "The two agree with eps=1e-06 instead of 1e-05 in ours"),
        (exact_gelu, "h.0.mlp.c_proj", "The two agree with approximate='none' instead of 'tanh' in ours"),
        (no_key_bias, "h.1.attn.c_attn", "h.1.attn.c_attn.bias differs in 16 of 48 rows, from 16 to 31"),
    ],
)
def test_a_fault_is_named_with_its_place(fault, place, words):
    model = ours()
    theirs = twin(model)
    fault(theirs)
    found = compare(model, theirs, BATCH)
    assert (found.phase, found.place) == ("forward", place), str(found)
    assert words in str(found)
    assert not any(row.differs for row in found.forward[: [r.key[0] for r in found.forward].index(place)])


def test_a_key_bias_changes_nothing_in_the_end():
    model = ours()
    theirs = twin(model)
    no_key_bias(theirs)
    assert "In the end the loss is off by" in (words := str(compare(model, theirs, BATCH))) and "within noise" in words


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_dropout_left_on_is_named(whose):
    model = ours()
    theirs = gpt2(model)
    drop = model.h[1].drop if whose == "ours" else theirs.transformer.h[1].mlp.dropout
    drop.p, drop.training = 0.1, True
    found = compare(model, theirs, BATCH)
    place = "h.1.drop" if whose == "ours" else "transformer.h.1.mlp.dropout"
    assert found.phase == "random"
    assert found.place.partition("/")[0] == place
    assert f"Training, with a dropout: {place}" in str(found)


KERNEL = """
from tinygrad_llm.ops.layernorm import layernorm_backward as right, layernorm_forward


def layernorm_backward(dy, *saved):
    dx, dweight, dbias = right(dy, *saved)
    return dx + dy.mean(axis=-1, keepdims=True), dweight, dbias
"""


def test_a_kernel_with_a_wrong_backward_is_named_and_replayed(tmp_path):
    file = tmp_path / "layernorm.py"
    file.write_text(KERNEL)
    model = ours()
    found = compare(model, model, BATCH, kernels=(str(file), "numpy"))
    assert found.phase == "backward", str(found)
    assert found.operation.name == "layernorm"
    assert found.place == "ln_f/layernorm"  # the first on the way back
    assert "gradient of x" in str(found)
    found.save(tmp_path / "out")
    again = replay(tmp_path / "out" / "operation.npz")
    assert np.allclose(again["result"], again["recorded"], rtol=0, atol=1e-5)
    assert np.allclose(again["dx"], again["expected"].reshape(again["dx"].shape), rtol=0, atol=1e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page and "ln_f" in page
    assert json.loads((tmp_path / "out" / "report.json").read_text())["place"] == "ln_f/layernorm"


def test_a_wrong_backward_in_pytorch_is_named_with_the_operation():
    model = ours()
    theirs = twin(model)
    theirs.h[0].mlp["c_proj"].register_full_backward_hook(lambda module, dx, dy: (2 * dx[0],))
    found = compare(model, theirs, BATCH)
    assert found.phase == "backward", str(found)
    assert found.place in ("h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias") and found.operation.name == "mlp"
    assert "from the backward of mlp in h.0.mlp" in str(found)


def test_in_float32_the_room_is_that_of_float32():
    model = ours()
    theirs = gpt2(model)
    found = compare(model, theirs, BATCH, double=False)
    assert found.agrees, str(found)
    assert 1e-7 < found.forward[-1].limit < 1e-4
    transposed_square = theirs.transformer.h[1].attn.c_proj.weight
    transposed_square.data = transposed_square.data.T.contiguous()
    assert compare(model, theirs, BATCH, double=False).place == "h.1.attn.c_proj"


def test_kernel_sets_agree():
    model = ours()
    found = compare(model, model, BATCH, kernels=("numba", "numpy"))
    assert found.agrees, str(found)
    assert any("attention_qkvpacked" in row.key[0] for row in found.forward)


def test_the_first_step_and_parameter_that_differ_in_training():
    model = ours()
    optimizers = (lambda p: AdamW(p, weight_decay=0.1), lambda p: torch.optim.AdamW(p))
    found = compare(model, twin(model), BATCH, steps=3, optimizers=optimizers)
    assert (found.phase, found.place, len(found.steps)) == ("training", "wte.weight", 1)
    assert "The gradients agree, so it is the update" in str(found)


class Attention(Module):
    """Of ours, with query, key and value in one layer."""

    def __init__(self):
        self.norm, self.qkv, self.mix = LayerNorm(8), Linear(8, 24), Linear(8, 8)

    def forward(self, x):
        return self.mix(F.attention_qkvpacked(self.qkv(self.norm(x)), 1))


class Separate(nn.Module):
    """Of someone else's, with three layers, other names, and a matrix (in, out)."""

    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(3))
        self.before = nn.LayerNorm(8)
        self.out = transformers.pytorch_utils.Conv1D(8, 8)

    def forward(self, x):
        h = self.before(x)
        scores = self.to_q(h) @ self.to_k(h).mT / math.sqrt(8)
        weights = scores.masked_fill(~torch.ones(x.shape[1], x.shape[1]).tril().bool(), -math.inf).softmax(-1)
        return self.out(weights @ self.to_v(h))


def separate(model: Attention) -> Separate:
    theirs, state = Separate(), {name: torch.tensor(x) for name, x in model.state_dict().items()}
    for i, layer in enumerate((theirs.to_q, theirs.to_k, theirs.to_v)):
        layer.load_state_dict({key: state[f"qkv.{key}"][8 * i : 8 * i + 8] for key in ("weight", "bias")})
    theirs.out.load_state_dict({"weight": state["mix.weight"].T, "bias": state["mix.bias"]})
    return theirs


def test_fused_and_transposed_layers_are_paired_without_help():
    manual_seed(0)
    model = Attention()
    theirs = separate(model)
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    found = compare(model, theirs, x, mapping={"mix": "out"})
    assert found.agrees, str(found)
    assert {"qkv", "mix", "norm"} <= {row.key[0] for row in found.forward}
    assert {"qkv.weight", "mix.weight"} <= {row.key[0] for row in found.backward}
    assert compare(model, theirs, x).agrees
    theirs.to_v.bias.data += 0.5
    found = compare(model, theirs, x)
    assert found.place == "qkv" and "from 16 to 23" in str(found)


def transpose(layer):
    """As where (in, out) is taken for (out, in): the matrix is square, so that nothing complains."""
    layer.weight.data = layer.weight.data.T + 0


def left_on(module, name):
    setattr(module, name, 0.1)
    module.training = True


EPS = "The two agree with eps=1e-06 instead of 1e-05 in ours."
TWO = {"gpt2": lambda: (ours(), gpt2(ours())), "llama": llamas, "ours": lambda: (ours(), ours())}


@pytest.mark.parametrize(
    ("other", "fault", "phase", "place", "operation", "words"),
    [
        ("gpt2", lambda model: transpose(model.transformer.h[1].attn.c_proj), "forward", "h.1.attn.c_proj", "linear",
         "h.1.attn.c_proj.weight is the transpose of theirs."),
        ("llama", lambda model: transpose(model.model.layers[1].self_attn.o_proj), "forward",
         "layers.1.self_attn.o_proj", "linear", "layers.1.self_attn.o_proj.weight is the transpose of theirs."),
        ("ours", lambda model: transpose(model.h[1].attn.c_proj), "forward", "h.1.attn.c_proj/linear", "linear",
         "h.1.attn.c_proj.weight is the transpose of theirs."),
        ("gpt2", lambda model: setattr(model.transformer.h[1].ln_2, "eps", 1e-6), "forward", "h.1.ln_2", "layernorm",
         EPS),
        ("llama", lambda model: setattr(model.model.layers[1].input_layernorm, "variance_epsilon", 1e-6), "forward",
         "layers.1.input_layernorm", "rmsnorm", EPS),
        ("ours", lambda model: setattr(model.h[1].ln_1, "eps", 1e-6), "forward", "h.1.ln_1/layernorm", "layernorm",
         EPS),
        ("gpt2", lambda model: left_on(model.transformer.h[1].attn.resid_dropout, "p"), "random",
         "transformer.h.1.attn.resid_dropout", None, "Training, with a dropout: transformer.h.1.attn.resid_dropout."),
        ("llama", lambda model: left_on(model.model.layers[1].self_attn, "attention_dropout"), "random",
         "model.layers.1.self_attn.o_proj", None, "Training, with a dropout: model.layers.1.self_attn."),
        ("ours", lambda model: left_on(model.h[1].drop, "p"), "random", "h.1.drop/dropout", None,
         "Training, with a dropout: h.1.drop."),
    ],
)  # fmt: skip
def test_three_faults_of_someone_elses(other, fault, phase, place, operation, words):
    """A transposed weight, another epsilon, a dropout left on: each alone, in the second of two models that agree."""
    model, theirs = TWO[other]()
    fault(theirs)
    found = compare(model, theirs, BATCH)
    assert (found.phase, found.place) == (phase, place), str(found)
    assert getattr(found.operation, "name", None) == operation
    assert words in str(found)


class Masked(Module):
    """Scores of which some are -inf, times a factor."""

    def __init__(self, factor: float):
        self.linear, self.factor = Linear(8, 8), factor

    def forward(self, x):
        scores = self.linear(x).masked_fill(np.eye(8, dtype=bool), -math.inf)
        return F.softmax(scores * self.factor, -1)


def test_a_difference_beside_infinity_is_seen():
    model, other = Masked(2.0), Masked(2.001)
    other.load_state_dict(model.state_dict())
    x = np.random.default_rng(0).normal(size=(8, 8))
    assert compare(model, model, x).agrees
    found = compare(model, other, x)
    assert (found.phase, found.operation.name) == ("forward", "mul"), str(found)


def test_not_a_number_is_a_difference_in_parameters_and_in_training():
    model, other = ours(), ours()
    other.h[1].ln_1.weight.data[3] = np.nan
    assert "h.1.ln_1.weight differs in 1 of 16 rows, from 3 to 3" in str(compare(model, other, BATCH))
    optimizers = (lambda p: AdamW(p, lr=math.inf), torch.optim.AdamW)
    with np.errstate(all="ignore"):
        assert compare(model, twin(model), BATCH, steps=1, optimizers=optimizers).phase == "training"


def test_bad_input_is_one_line():
    model = ours()
    unknown = {"nothing": "wte"}
    wrong = [
        (lambda: compare(model, 3, BATCH), "a Module of tinygrad_llm or of torch.nn, and not int"),
        (lambda: compare(model, Attention(), BATCH), "cannot pair"),
        (lambda: compare(model, model, BATCH, mapping=unknown), "no layer with parameters is called 'nothing'"),
        (lambda: compare(model, model, BATCH, kernels=("numpy",)), "not 1"),
        (lambda: compare(model, twin(model), (BATCH[0] + 300, BATCH[1])), "outside the vocabulary"),
        (lambda: compare(twin(model), twin(model), (BATCH[0] + 300, BATCH[1])), "the GPT does not run on this batch"),
    ]
    for call, words in wrong:
        with pytest.raises(UserError, match=words) as error:
            call()
        assert "\n" not in str(error.value)
