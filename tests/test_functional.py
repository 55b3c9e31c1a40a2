"""functional has torch.nn.functional's names, arguments, defaults and semantics: the same call gives the same."""

import importlib
import inspect
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from tinygrad_llm import Tensor, UserError, kernels, manual_seed, watch
from tinygrad_llm import functional as F

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape)


def both(name, *inputs, **options):
    """Our result and torch's for the same call, and the gradients of the floating inputs."""

    def call(module, make):
        made = [make(x) if isinstance(x, np.ndarray) else x for x in inputs]
        named = {k: make(x, False) if isinstance(x, np.ndarray) else x for k, x in options.items()}
        y = getattr(module, name)(*made, **named)
        y.sum().backward()
        grads = [np.asarray(x.grad) for x in made if getattr(x, "requires_grad", False)]
        return np.asarray(y.detach().numpy()), grads

    def floats(x, requires_grad):
        return x.dtype.kind == "f" and requires_grad

    ours = call(F, lambda x, requires_grad=True: Tensor(x, requires_grad=floats(x, requires_grad)))
    theirs = call(TF, lambda x, requires_grad=True: torch.tensor(x, requires_grad=floats(x, requires_grad)))
    return ours, theirs


IDS = RANDOM.integers(0, 5, (3, 7))
CALLS = [
    ("linear", (normal(3, 7), normal(5, 7), normal(5)), {}),
    ("embedding", (IDS, normal(5, 4)), {"padding_idx": 1}),
    ("embedding", (IDS, normal(5, 4)), {"padding_idx": -1}),
    ("layer_norm", (normal(3, 7), [7]), {}),
    ("layer_norm", (normal(3, 7), (7,), normal(7), normal(7), 1e-3), {}),
    ("layer_norm", (normal(2, 3, 7), (3, 7), normal(3, 7), normal(3, 7)), {}),
    ("rms_norm", (normal(3, 7), (7,), normal(7)), {}),
    ("rms_norm", (normal(2, 3, 7), (3, 7)), {"eps": 1e-3}),
    ("softmax", (normal(3, 7),), {"dim": 0}),
    ("log_softmax", (normal(3, 7), 1), {}),
    ("gelu", (normal(3, 7),), {}),
    ("gelu", (normal(3, 7),), {"approximate": "tanh"}),
    ("silu", (normal(3, 7),), {}),
    ("relu", (normal(3, 7),), {}),
    ("logsigmoid", (normal(3, 7),), {}),
    ("sigmoid", (normal(3, 7),), {}),
    ("tanh", (normal(3, 7),), {}),
    ("dropout", (normal(3, 7),), {"training": False}),
    ("dropout", (normal(3, 7), 0.0), {}),
    ("dropout", (normal(3, 7), 1.0), {}),
    ("scaled_dot_product_attention", (normal(2, 3, 7, 4), normal(2, 3, 9, 4), normal(2, 3, 9, 4)), {}),
    ("scaled_dot_product_attention", (normal(7, 4), normal(7, 4), normal(7, 4)), {"is_causal": True}),
    ("scaled_dot_product_attention", (normal(3, 7, 4), normal(3, 9, 4), normal(3, 9, 4)), {"scale": 0.3}),
    (
        "scaled_dot_product_attention",
        (normal(2, 4, 7, 4), normal(2, 2, 7, 4), normal(2, 2, 7, 4)),
        {"enable_gqa": True, "is_causal": True},
    ),
    (
        "scaled_dot_product_attention",
        (normal(2, 3, 7, 4), normal(2, 3, 7, 4), normal(2, 3, 7, 4), np.tri(7, dtype=bool)),
        {},
    ),
    ("scaled_dot_product_attention", (normal(2, 3, 7, 4), normal(2, 3, 7, 4), normal(2, 3, 7, 4), normal(7, 7)), {}),
    ("cross_entropy", (normal(5), np.array(3)), {}),
    ("cross_entropy", (normal(7, 5), RANDOM.integers(0, 5, 7)), {"label_smoothing": 0.1}),
    ("cross_entropy", (normal(7, 5), RANDOM.integers(0, 5, 7)), {"reduction": "none"}),
    ("cross_entropy", (normal(7, 5, 2, 3), RANDOM.integers(0, 5, (7, 2, 3))), {"reduction": "none"}),
    ("cross_entropy", (normal(7, 5, 2), RANDOM.integers(0, 5, (7, 2))), {"ignore_index": 2}),
    ("cross_entropy", (normal(7, 5), RANDOM.integers(0, 5, 7)), {"weight": RANDOM.random(5)}),
    ("cross_entropy", (normal(7, 5),), {"target": RANDOM.dirichlet(np.ones(5), 7)}),
    ("nll_loss", (normal(7, 5), RANDOM.integers(0, 5, 7)), {"reduction": "sum"}),
    ("nll_loss", (normal(7, 5, 3), RANDOM.integers(0, 5, (7, 3))), {"weight": RANDOM.random(5)}),
    ("mse_loss", (normal(3, 7), normal(3, 7)), {"reduction": "sum"}),
    ("kl_div", (normal(3, 7), RANDOM.random((3, 7))), {"reduction": "batchmean"}),
    ("kl_div", (normal(3, 7), normal(3, 7)), {"log_target": True, "reduction": "sum"}),
    ("binary_cross_entropy_with_logits", (normal(3, 7), RANDOM.random((3, 7))), {"pos_weight": RANDOM.random(7)}),
]


@pytest.mark.parametrize(("name", "inputs", "options"), CALLS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_same_call_gives_the_same(name, inputs, options):
    (y, gradients), (expected, expected_gradients) = both(name, *inputs, **options)
    assert y.shape == expected.shape
    assert np.allclose(y, expected, rtol=1e-10, atol=1e-12)
    assert len(gradients) == len(expected_gradients)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert np.allclose(gradient, wanted, rtol=1e-10, atol=1e-12)


LEFT_OUT = {"inplace", "size_average", "reduce", "max_norm", "norm_type", "scale_grad_by_freq", "sparse", "_stacklevel"}
SIGNATURES = ["embedding", "layer_norm", "rms_norm", "dropout", "cross_entropy", "nll_loss", "kl_div", "softmax"]


@pytest.mark.parametrize("name", [*SIGNATURES, "binary_cross_entropy_with_logits", "log_softmax"])
def test_names_order_and_defaults_of_the_arguments(name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (F, TF))
    expected = {key: p.default for key, p in theirs.items() if key not in LEFT_OUT}
    if "softmax" in name:
        expected["dim"] = -1  # torch's None, which it warns about
    assert {key: p.default for key, p in ours.items()} == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_norm_of_a_single_number_is_the_bias_and_does_not_depend_on_it(dtype):
    """Its gradient is exactly zero, so that no relative error can be asked for."""
    x, weight, bias = (Tensor(normal(*shape).astype(dtype), requires_grad=True) for shape in ((5, 1), (1,), (1,)))
    y = F.layer_norm(x, (1,), weight, bias)
    y.backward(normal(5, 1))
    assert np.allclose(y.data, bias.data)
    assert np.abs(x.grad).max() < 300 * np.finfo(dtype).eps  # rstd is 1 / sqrt(1e-5)


def test_linear_cross_entropy_is_the_two_in_one():
    h, weight, targets = normal(7, 4), normal(5, 4), RANDOM.integers(0, 5, 7)
    fused, plain = ((Tensor(h, requires_grad=True), Tensor(weight, requires_grad=True)) for _ in range(2))
    loss = F.linear_cross_entropy(*fused, targets)
    expected = F.cross_entropy(F.linear(*plain), targets)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert all(np.allclose(a.grad, b.grad, rtol=1e-10) for a, b in zip(fused, plain, strict=True))


PAGE = importlib.import_module("tinygrad_llm.ops.linear_cross_entropy")  # of the same name as the operation


@pytest.mark.parametrize("kernel_set", ["numpy", "numba"])
def test_linear_cross_entropy_is_the_same_in_chunks(kernel_set, monkeypatch):
    h, weight, targets = normal(23, 4), normal(5, 4), RANDOM.integers(0, 5, 23)
    results = []
    for logits in (2**24, 30):
        monkeypatch.setattr(PAGE, "LOGITS", logits)
        inputs = [Tensor(x, requires_grad=True) for x in (h, weight)]
        with kernels.use(kernel_set):
            loss = F.linear_cross_entropy(*inputs, targets)
            loss.backward()
        results.append([loss.data, *(x.grad for x in inputs)])
    assert all(np.allclose(a, b, rtol=1e-12) for a, b in zip(*results, strict=True))


def test_linear_cross_entropy_never_holds_all_the_logits(monkeypatch):
    monkeypatch.setattr(PAGE, "LOGITS", 2**18)
    rows, vocabulary = 1500, 997
    inputs = [Tensor(x.astype(np.float32), requires_grad=True) for x in (normal(rows, 4), normal(vocabulary, 4))]
    F.linear_cross_entropy(*inputs, RANDOM.integers(0, vocabulary, rows)).backward()  # compiles what is compiled
    seen = []
    tracemalloc.start()
    with watch(lambda phase, name, inputs, outputs, seconds: seen.append(phase)):
        F.linear_cross_entropy(*inputs, RANDOM.integers(0, vocabulary, rows)).backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == ["forward", "backward"]
    assert peak < rows * vocabulary * 4  # one float32 array of all the logits


def test_packed_attention_is_that_of_its_parts_with_the_same_dropout():
    qkv, dy = normal(2, 7, 24), np.random.default_rng(1).normal(size=(2, 7, 8))
    results = []
    for packed in (True, False):
        manual_seed(5)
        x = Tensor(qkv.copy(), requires_grad=True)
        if packed:
            y = F.attention_qkvpacked(x, 2, 0.3)
        else:
            parts = (part.reshape(2, 7, 2, 4).transpose(1, 2) for part in x.split(8, -1))
            y = F.scaled_dot_product_attention(*parts, dropout_p=0.3, is_causal=True).transpose(1, 2).reshape(2, 7, 8)
        y.backward(dy)
        results.append((y.data, x.grad))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_dropout_in_attention_keeps_the_mean_and_follows_the_seed():
    q, k, v = (Tensor(np.ones((1, 1, 300, 4))) for _ in range(3))

    def draw(seed):
        manual_seed(seed)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.3).data

    assert draw(0).mean() == pytest.approx(1, abs=0.02)
    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.embedding(np.array([[1, -1]]), Tensor(normal(5, 4))), r"token -1 at \[0, 1\] is outside"),
        (lambda: F.embedding(np.array([1.5]), Tensor(normal(5, 4))), "token ids must be integers, not float64"),
        (lambda: F.cross_entropy(Tensor(normal(3, 5)), np.array([0, 5, 1])), "target 5 at position 1 is outside the 5"),
        (lambda: F.cross_entropy(Tensor(normal(3, 5)), np.array([0, 1])), r"targets of shape \(2,\)"),
        (lambda: F.cross_entropy(Tensor(normal(3, 5)), np.array([0, 1, 2]), reduction="max"), "reduction must be"),
        (lambda: F.layer_norm(Tensor(normal(3, 5)), (4,)), r"normalized_shape \[4\] is not the end"),
        (lambda: F.gelu(Tensor(normal(3)), approximate="erf"), "approximate must be 'none' or 'tanh'"),
        (lambda: F.dropout(Tensor(normal(3)), 1.5), "a dropout probability is from 0 to 1, not 1.5"),
        (
            lambda: F.scaled_dot_product_attention(*(Tensor(normal(1, h, 3, 4)) for h in (4, 2, 2))),
            "4 heads of query and 2 of key: with enable_gqa=True",
        ),
        (
            lambda: F.scaled_dot_product_attention(*(Tensor(normal(3, d)) for d in (4, 5, 5))),
            "do not fit together",
        ),
        (
            lambda: F.scaled_dot_product_attention(*(Tensor(normal(3, 4)),) * 3, np.ones((3, 3), bool), is_causal=True),
            "is_causal and attn_mask exclude each other",
        ),
        (
            lambda: F.cross_entropy(Tensor(normal(7, 5)), Tensor(normal(7, 5), requires_grad=True)),
            "targets are constants here",
        ),
        (
            lambda: F.layer_norm(Tensor(normal(2, 3)), (3,), Tensor(normal(1, 3))),
            r"weight and bias must be of normalized_shape \[3\], not \[1, 3\]",
        ),
        (
            lambda: F.scaled_dot_product_attention(
                *(Tensor(normal(*shape)) for shape in [(3, 5, 4)] + 2 * [(2, 3, 5, 4)])
            ),
            "do not fit together",
        ),
    ],
)
def test_bad_calls_say_what_is_wrong(call, message):
    with pytest.raises(UserError, match=message):
        call()
