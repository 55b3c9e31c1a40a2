"""PyTorch's operators as kernels: schemas, shared memory, and on fake tensors the branch that only CUDA takes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tinygrad_llm import Tensor, kernels, ops
from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.torch import (
    adamw,
    attention,
    attention_qkvpacked,
    cross_entropy,
    embedding,
    layernorm,
    linear_cross_entropy,
    mlp,
)
from tinygrad_llm.kernels.torch.tensors import array, on_tensors, tensor
from tinygrad_llm.optim.adamw import adamw_step

# Operators whose names or arguments PyTorch does not promise to keep, and the layers' backwards.
SCHEMAS = """\
aten::_fused_adamw_(Tensor(a!)[] self, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] exp_avg_sqs, \
Tensor(e!)[] max_exp_avg_sqs, Tensor[] state_steps, *, float lr, float beta1, float beta2, float weight_decay, \
float eps, bool amsgrad, bool maximize, Tensor? grad_scale=None, Tensor? found_inf=None) -> ()
aten::_log_softmax(Tensor self, int dim, bool half_to_float) -> Tensor
aten::_log_softmax_backward_data(Tensor grad_output, Tensor output, int dim, ScalarType input_dtype) -> Tensor
aten::_scaled_dot_product_flash_attention(Tensor query, Tensor key, Tensor value, float dropout_p=0., \
bool is_causal=False, bool return_debug_mask=False, *, float? scale=None) -> (Tensor output, Tensor logsumexp, \
Tensor cum_seq_q, Tensor cum_seq_k, SymInt max_q, SymInt max_k, Tensor rng_state, Tensor unused, \
Tensor debug_attn_mask)
aten::_scaled_dot_product_flash_attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, \
Tensor out, Tensor logsumexp, Tensor cum_seq_q, Tensor cum_seq_k, SymInt max_q, SymInt max_k, float dropout_p, \
bool is_causal, Tensor philox_seed, Tensor philox_offset, *, float? scale=None) -> (Tensor grad_query, \
Tensor grad_key, Tensor grad_value)
aten::_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, float dropout_p=0., \
bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor output, Tensor logsumexp)
aten::_scaled_dot_product_flash_attention_for_cpu_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, \
Tensor out, Tensor logsumexp, float dropout_p, bool is_causal, *, Tensor? attn_mask=None, float? scale=None) -> \
(Tensor grad_query, Tensor grad_key, Tensor grad_value)
aten::embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, \
bool sparse=False) -> Tensor
aten::embedding_dense_backward(Tensor grad_output, Tensor indices, SymInt num_weights, SymInt padding_idx, \
bool scale_grad_by_freq) -> Tensor
aten::gelu(Tensor self, *, str approximate="none") -> Tensor
aten::gelu_backward(Tensor grad_output, Tensor self, *, str approximate="none") -> Tensor
aten::native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps) -> \
(Tensor, Tensor, Tensor)
aten::native_layer_norm_backward(Tensor grad_out, Tensor input, SymInt[] normalized_shape, Tensor mean, \
Tensor rstd, Tensor? weight, Tensor? bias, bool[3] output_mask) -> (Tensor, Tensor, Tensor)
aten::nll_loss_backward(Tensor grad_output, Tensor self, Tensor target, Tensor? weight, int reduction, \
SymInt ignore_index, Tensor total_weight) -> Tensor
aten::nll_loss_forward(Tensor self, Tensor target, Tensor? weight, int reduction, SymInt ignore_index) -> \
(Tensor output, Tensor total_weight)
aten::silu(Tensor self) -> Tensor
aten::silu_backward(Tensor grad_output, Tensor self) -> Tensor
""".splitlines()
NAMES = [schema.partition("(")[0].removeprefix("aten::") for schema in SCHEMAS]


@pytest.mark.parametrize(("name", "schema"), list(zip(NAMES, SCHEMAS, strict=True)), ids=NAMES)
def test_the_operator_is_still_the_one_that_the_kernels_call(name, schema):
    assert str(getattr(torch.ops.aten, name).default._schema) == schema


def test_the_kernels_call_no_other_operators():
    folder = Path(layernorm.__file__).parent
    assert set(re.findall(r"\baten\.(\w+)", "".join(file.read_text() for file in folder.glob("*.py")))) == set(NAMES)


# Arrays


def test_arrays_and_tensors_share_their_memory():
    x = np.zeros((3, 4), np.float32)
    t = tensor(x[1:, ::2])
    t[0, 1] = 5
    assert x[1, 2] == 5
    back = array(t)
    back[1, 0] = 7
    assert x[2, 0] == 7


def test_what_pytorch_cannot_see_in_place_is_copied():
    x = np.arange(3.0)
    assert tensor(x[::-1]).tolist() == [2, 1, 0]
    x.flags.writeable = False
    assert tensor(x).tolist() == [0, 1, 2]
    assert tensor(np.float32(2)).shape == ()
    assert tensor("mean") == "mean"


def test_rows_of_attention_that_are_not_contiguous():
    """PyTorch's own operator would read past them, and says nothing."""
    q, k, v, dy = np.random.default_rng(0).normal(size=(4, 2, 3, 7, 33))
    in_fortrans_order = [np.asfortranarray(x) for x in (q, k, v, dy)]
    y, saved = attention.attention_forward(q, k, v)
    other, others_saved = attention.attention_forward(*in_fortrans_order[:3])
    np.testing.assert_array_equal(other, y)
    found = attention.attention_backward(in_fortrans_order[3], others_saved)
    for ours, expected in zip(found[:3], attention.attention_backward(dy, saved)[:3], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_pytorchs_autograd_records_nothing():
    @on_tensors
    def twice(x):
        assert not torch.is_grad_enabled()
        return 2 * x, (x,)

    y, saved = twice(np.ones(2))
    assert isinstance(y, np.ndarray) and torch.is_tensor(saved[0])
    assert torch.is_grad_enabled()


def test_a_leafs_gradient_is_added_where_the_optimizer_wants_it():
    random = np.random.default_rng(0)
    x = Tensor(random.normal(size=(5, 3)))
    weight = Tensor(random.normal(size=(4, 3)), requires_grad=True)
    with kernels.use("torch"):
        weight.grad_buffer = np.zeros((4, 3))
        for times in (1, 2):
            ops.linear(x, weight, None).sum().backward()
            assert weight.grad is weight.grad_buffer
            np.testing.assert_allclose(weight.grad, times * np.tile(x.data.sum(axis=0), (4, 1)), rtol=1e-12)


def test_adamw_leaves_the_gradient_as_it_is():
    random = np.random.default_rng(0)
    param, grad, m, v = random.normal(size=(4, 33))
    m, v = 0 * m, 0 * v
    page = param.copy(), grad.copy(), m.copy(), v.copy()
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
    for step, scale in [(1, 1.0), (2, 0.5)]:
        adamw.adamw_step(param, grad, m, v, **settings, step=step, scale=scale)
        adamw_step(*page, **settings, step=step, scale=scale)
    for ours, expected in zip((param, grad, m, v), page, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


# The branch that only CUDA takes


@pytest.fixture
def fake():
    with FakeTensorMode():
        yield lambda *shape, dtype=torch.bfloat16: torch.empty(*shape, dtype=dtype, device="cuda")


def raw(function):
    """The function of tensors."""
    return function.__wrapped__


@pytest.mark.parametrize("heads", [4, 2])
def test_flash_attention_by_its_name_on_cuda(fake, heads):
    q, k = fake(2, 4, 64, 32), fake(2, heads, 64, 32)
    y, saved = raw(attention.attention_forward)(q, k, k, is_causal=True, scale=0.1)
    assert (y.shape, y.dtype, y.device.type) == (q.shape, torch.bfloat16, "cuda")
    *gradients, dmask = raw(attention.attention_backward)(y, saved)
    assert [(g.shape, g.dtype) for g in gradients] == [(x.shape, x.dtype) for x in (q, k, k)]
    assert dmask is None


def test_flash_attention_of_packed_heads_on_cuda(fake):
    qkv = fake(2, 64, 3 * 96, dtype=torch.float16)
    y, saved = raw(attention_qkvpacked.attention_qkvpacked_forward)(qkv, 3)
    assert (y.shape, y.dtype) == ((2, 64, 96), torch.float16)
    dqkv = raw(attention_qkvpacked.attention_qkvpacked_backward)(y, saved)
    assert (dqkv.shape, dqkv.dtype) == (qkv.shape, torch.float16)


@pytest.mark.parametrize(
    ("queries", "keys", "dtype", "named"),
    [
        ((1, 2, 8, 64), (1, 2, 8, 64), torch.float32, "torch.float32"),
        ((1, 2, 8, 20), (1, 2, 8, 20), torch.float16, "heads of 20 numbers"),
        ((1, 2, 8, 264), (1, 2, 8, 264), torch.float16, "heads of 264 numbers"),
        ((1, 2, 8, 64), (1, 2, 9, 64), torch.float16, "8 queries and 9 keys"),
        ((1, 2, 0, 64), (1, 2, 0, 64), torch.float16, "no queries"),
    ],
)
def test_what_cudas_flash_attention_does_not_take_is_left_to_the_page(fake, queries, keys, dtype, named):
    q, k = fake(*queries, dtype=dtype), fake(*keys, dtype=dtype)
    with pytest.raises(kernels.Unsupported, match=named):
        raw(attention.attention_forward)(q, k, k, is_causal=True)


def test_the_other_operators_take_tensors_of_cuda(fake):
    """Shapes and dtypes come back as they went in: what a call with wrong arguments would not do."""
    x, w, b, ids = fake(6, 32), fake(32), fake(32), fake(6, dtype=torch.int64)
    matrix, bias = fake(128, 32), fake(128)
    y, saved = raw(layernorm.layernorm_forward)(x, w, b)
    assert shapes(y, *raw(layernorm.layernorm_backward)(y, saved)) == shapes(x, x, w, b)
    y, saved = raw(mlp.mlp_forward)(x, matrix, bias, matrix.T, b, "tanh")
    gradients = raw(mlp.mlp_backward)(y, saved, (True,) * 5, [(None, False)] * 5)
    assert shapes(y, *gradients) == shapes(x, x, matrix, bias, matrix.T, b)
    y, saved = raw(embedding.embedding_forward)(matrix, ids, 3)
    assert shapes(y, raw(embedding.embedding_backward)(y, saved)) == shapes(x, matrix)
    y, saved = raw(cross_entropy.cross_entropy_forward)(x, ids)
    assert shapes(y, raw(cross_entropy.cross_entropy_backward)(y, saved)) == [((), x.dtype), (x.shape, x.dtype)]
    needs, out = (True, True), [(None, False)] * 2
    y, gradients = raw(linear_cross_entropy.linear_cross_entropy_forward)(x, matrix, ids, needs=needs)
    gradients = raw(linear_cross_entropy.linear_cross_entropy_backward)(y, gradients, out)
    assert shapes(*gradients) == shapes(x, matrix)


def shapes(*tensors) -> list:
    assert all(t.device.type == "cuda" for t in tensors)
    return [(tuple(t.shape), t.dtype) for t in tensors]


# Chosen, or not


def test_it_is_never_chosen_by_itself():
    assert "torch" not in kernels.active()


def test_without_pytorch_one_line_says_what_to_install(monkeypatch):
    find_spec = kernels.importlib.util.find_spec
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    with pytest.raises(UserError, match=r"pip install 'tinygrad-llm\[torch\]'"):
        kernels.use("torch")


def test_pytorch_is_imported_when_a_kernel_is_first_used():
    code = (
        "import sys, numpy as np; from tinygrad_llm import Tensor, kernels; kernels.use('torch'); "
        "print('torch' in sys.modules); Tensor(np.ones(3)).log_softmax(-1); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["False", "True"], result.stderr
