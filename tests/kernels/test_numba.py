"""What the comparison with PyTorch does not show of the Numba kernels: the same bits each time, threads, NaN, AdamW."""

import importlib
import math
import pkgutil
from pathlib import Path

import numba
import numpy as np
import pytest

from tinygrad_llm import Tensor, kernels, ops
from tinygrad_llm.kernels import numba as numba_kernels
from tinygrad_llm.kernels.numba import adamw as adamw_kernel
from tinygrad_llm.kernels.numba import grad_norm
from tinygrad_llm.kernels.numba.common import SHARED, SOURCE, exp
from tinygrad_llm.kernels.numba.threads import leaf
from tinygrad_llm.nn import LayerNorm, RMSNorm, add_norm
from tinygrad_llm.optim.adamw import adamw_step
from tinygrad_llm.optim.optimizer import grad_norm_clip
from tinygrad_llm.quantization import quantize
from tinygrad_llm.verification import compare, run

KERNELS = [name for name in kernels.KernelSet("numba").operations() if name in vars(ops)]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = numba.get_num_threads()
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one thread only here")
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


def inputs_of(name: str) -> tuple[list, dict]:
    random = np.random.default_rng(3)
    normal, tokens = random.normal, random.integers(0, 33, size=257)
    blocks = quantize(normal(size=(33, 96)), "Q4_1").blocks
    return {
        "add": ([normal(size=(257, 33)), normal(size=(257, 33))], {}),
        "attention": ([normal(size=(3, 2, 37, 9)) for _ in "qkv"], {"is_causal": True}),
        "attention_segments": (
            [*(normal(size=(3, 2, 37, 9)) for _ in "qkv"), np.array([[0, 0, 20], [0, 20, 37], [2, 3, 30]])],
            {},
        ),
        "attention_qkvpacked": ([normal(size=(3, 37, 54))], {"n_head": 2}),
        "cross_entropy": ([normal(size=(257, 33)), tokens], {}),
        "embedding": ([normal(size=(33, 97)), tokens], {}),
        "gelu": ([normal(size=1023)], {"approximate": "tanh"}),
        "layernorm": ([normal(size=(257, 97)), normal(size=97), normal(size=97)], {}),
        "linear": ([normal(size=(257, 97)), normal(size=(33, 97)), normal(size=33)], {}),
        "lora_linear": (
            [normal(size=(257, 97)), normal(size=(33, 97)), None, normal(size=(4, 97)), normal(size=(33, 4))],
            {},
        ),
        "quantized_linear": ([normal(size=(3, 96)), blocks, normal(size=33)], {"type": "Q4_1"}),
        "swiglu": ([normal(size=1023), normal(size=1023)], {}),
        "mlp": ([normal(size=(257, 33)), normal(size=(97, 33)), normal(size=97), normal(size=(33, 97)), None], {}),
        "rmsnorm": ([normal(size=(257, 97)), normal(size=97)], {}),
        "rotary": ([normal(size=(3, 2, 37, 10)), normal(size=(37, 10)), normal(size=(37, 10))], {}),
        "linear_cross_entropy": ([normal(size=(257, 97)), normal(size=(33, 97)), tokens], {}),
    }[name]


@pytest.mark.parametrize("name", KERNELS)
def test_each_number_of_threads_agrees_with_pytorch(name, threads):
    assert compare(name, "numba", "float32").failures == []


@pytest.mark.parametrize("name", KERNELS)
def test_the_same_bits_each_time(name, threads):
    inputs, options = inputs_of(name)
    with kernels.use("numba"):
        first, *others = (run(getattr(ops, name), inputs, options, "float32") for _ in range(10))
    for other in others:
        for key, array in first.items():
            np.testing.assert_array_equal(other[key], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", sorted(name for name in KERNELS if not name.startswith("attention")))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_shows_where_the_page_shows_it(name, value):
    (x, *others), options = inputs_of(name)
    x.flat[3] = value
    results = {}
    for kernel_set in ("numpy", "numba"):
        with kernels.use(kernel_set):
            results[kernel_set] = run(getattr(ops, name), [x, *others], options, "float32")
    assert value == -np.inf or not np.isfinite(results["numpy"]["y"]).all()  # -inf is no fault of a logit
    for key, expected in results["numpy"].items():
        np.testing.assert_array_equal(np.isnan(results["numba"][key]), np.isnan(expected), err_msg=key)
        np.testing.assert_array_equal(np.isposinf(results["numba"][key]), np.isposinf(expected), err_msg=key)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("width", [33, 128])
def test_a_sum_and_its_norm_in_one_pass_are_those_of_the_pages(norm, width, threads):
    def results(kernel_set):
        random = np.random.default_rng(4)
        x, y = (Tensor(random.normal(size=(3, 7, width)), requires_grad=True) for _ in "xy")
        module = norm(width).double()
        with kernels.use(kernel_set):
            z, normed = add_norm(x, y, module)
            (z * z * normed).sum().backward()
        return [z.data, normed.data, x.grad, y.grad, *(parameter.grad for parameter in module.parameters())]

    for expected, got in zip(results("numpy"), results("numba"), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("position", range(3))
def test_attention_shows_what_is_not_finite_from_where_it_stands(position, value):
    """The page multiplies what the mask hides by zero, which makes it NaN; here what is hidden is not touched."""
    inputs, options = inputs_of("attention")
    inputs[position][0, 0, 20, 5] = value
    with kernels.use("numba"):
        y = run(ops.attention, inputs, options, "float32")["y"]
        packed = run(ops.attention_qkvpacked, [side_by_side(*inputs)], {"n_head": 2}, "float32")["y"]
    np.testing.assert_array_equal(packed, side_by_side(y))
    shown = ~np.isfinite(y[0, 0]).all(axis=-1)
    assert not shown[:20].any()
    assert shown[20:].all() if position > 0 and value is np.nan else shown[20]
    assert np.isfinite(y[1:]).all() and np.isfinite(y[0, 1]).all()


def test_attention_drops_everything_and_takes_a_mask_of_any_dtype():
    (qkv,), _ = inputs_of("attention_qkvpacked")
    keep = np.random.default_rng(5).random((3, 2, 37, 37)) < 0.7
    with kernels.use("numba"):
        nothing = run(ops.attention_qkvpacked, [qkv, 2, np.zeros_like(keep), 1.0], {}, "float64")
        assert not nothing["y"].any() and not nothing["dqkv"].any()
        expected = ops.attention_qkvpacked(Tensor(qkv), 2, keep, 0.3).data
        for dtype in (np.int64, np.float32):
            y = ops.attention_qkvpacked(Tensor(qkv), 2, keep.astype(dtype), 0.3).data
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", ["attention_qkvpacked", "attention_segments"])
def test_a_mask_for_all_heads_is_one_for_each(name):
    inputs, options = inputs_of(name)
    keep = np.random.default_rng(5).random((3, 1, 37, 37)) < 0.7
    with kernels.use("numba"):
        one, each = (
            run(getattr(ops, name), inputs, options | {"keep": x, "dropout_p": 0.3}, "float64")
            for x in (keep, keep.repeat(2, 1))
        )
    for key, array in each.items():
        np.testing.assert_allclose(one[key], array, rtol=1e-9, atol=1e-12)


def test_angles_of_another_dtype_decide_the_results_as_on_the_page():
    (x, cos, sin), _ = inputs_of("rotary")
    y = []
    for kernel_set in ("numpy", "numba"):
        with kernels.use(kernel_set):
            y.append(ops.rotary(Tensor(x.astype(np.float32)), cos, sin).data)
    assert y[0].dtype == y[1].dtype == np.float64
    np.testing.assert_array_equal(*y)


@pytest.mark.parametrize("dy", [0.0, 1.0, 2.0])
def test_the_gradient_of_a_loss_may_be_any_number(dy):
    (*inputs, targets), _ = inputs_of("linear_cross_entropy")
    gradients = []
    for kernel_set in ("numpy", "numba"):
        h, weight = (Tensor(x, requires_grad=True) for x in inputs)
        with kernels.use(kernel_set):
            ops.linear_cross_entropy(h, weight, targets).backward(np.asarray(dy))
        gradients.append((h.grad, weight.grad))
    for expected, got in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def side_by_side(*parts):
    """(B, H, T, D) each, as (B, T, H D) side by side."""
    return np.concatenate([x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1) for x in parts], -1)


def test_sizes_that_do_not_fit_are_errors_and_not_reads_beyond_an_array():
    x = np.zeros((2, 2, 5, 4))
    with kernels.use("numba"):
        for k, v in ((x[:, :, :, :3], x), (x, x[:, :, :4]), (np.zeros((3, 2, 5, 4)),) * 2):
            with pytest.raises(ValueError):
                ops.attention(x, k, v)
        for qkv, n_head in ((np.zeros((2, 5, 12)), 3), (np.zeros((2, 5, 13)), 2)):
            with pytest.raises(ValueError):
                ops.attention_qkvpacked(qkv, n_head)
        with pytest.raises(ValueError):
            ops.layernorm(x, np.ones(3), None)
        for no_class in (-1, 4):
            with pytest.raises(IndexError):
                ops.cross_entropy(x[0, 0], np.array([0, 1, 2, 3, no_class]))
        with pytest.raises(IndexError):
            ops.embedding(x[0, 0], np.array([5]))


def test_another_reduction_is_an_error():
    with kernels.use("numba"), pytest.raises(ValueError, match="not 'median'"):
        ops.cross_entropy(np.zeros((5, 4)), np.zeros(5, int), reduction="median")


def test_targets_may_have_gaps():
    (x, targets), _ = inputs_of("cross_entropy")
    gaps = np.stack([targets, np.full_like(targets, -100)], axis=1)[:, 0]
    with kernels.use("numba"):
        expected, got = (run(ops.cross_entropy, [x, t], {}, "float64") for t in (targets, gaps))
    for key, array in expected.items():
        np.testing.assert_array_equal(got[key], array)


def test_a_change_of_what_leaves_share_compiles_them_anew():
    """Numba does not see it: the files whose helpers others call must be those of the checksum in a leaf's name."""
    borrowed = set()
    for info in pkgutil.iter_modules(numba_kernels.__path__, f"{numba_kernels.__name__}."):
        module = importlib.import_module(info.name)
        functions = [getattr(value, "py_func", None) for value in vars(module).values()]
        borrowed |= {f.__module__ for f in functions if f is not None and f.__module__ != info.name}
    names = {name.rpartition(".")[2] for name in borrowed}
    assert {"gelu", "matvec"} <= names
    assert names <= set(SHARED)
    assert all(Path(numba_kernels.__file__).with_name(f"{name}.py").read_bytes() in SOURCE for name in SHARED)


def test_exp_in_float32_is_right_to_two_units_in_the_last_place():
    x = np.linspace(-87.3, 88.37, 100_003, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(_exp_of(x) / exact - 1).max() < 2 * np.finfo(np.float32).eps


def test_exp_at_the_ends():
    x = np.array([-np.inf, -1e30, -104, 0, 89, 1e30, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(_exp_of(x), np.array([0, 0, 0, 1, np.inf, np.inf, np.inf, np.nan], np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 7, 1023])
def test_adamw_is_the_formula_and_pytorchs(size, dtype, threads):
    import torch

    random = np.random.default_rng(size)
    start, (m, v) = random.normal(size=size), np.zeros((2, size), dtype)
    ours, page, theirs = start.astype(dtype), start.copy(), torch.nn.Parameter(torch.tensor(start))
    page_m, page_v = np.zeros((2, size))
    settings = {"lr": 1e-2, "eps": 1e-8, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW([theirs], betas=(0.9, 0.99), **settings)
    for step in range(1, 8):
        grad, scale = random.normal(size=size).astype(np.float32).astype(np.float64), 1 / step
        adamw_kernel.adamw_step(
            ours, grad.astype(dtype), m, v, beta1=0.9, beta2=0.99, step=step, scale=scale, **settings
        )
        adamw_step(page, grad, page_m, page_v, beta1=0.9, beta2=0.99, step=step, scale=scale, **settings)
        theirs.grad = torch.tensor(grad * scale)
        optimizer.step()
    limit = {"float32": 2e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=limit, atol=limit)
    np.testing.assert_allclose(ours, page, rtol=limit, atol=limit)
    np.testing.assert_allclose(m, page_m, rtol=limit, atol=limit)
    np.testing.assert_allclose(v, page_v, rtol=limit, atol=limit)


def test_adamw_leaves_nothing_finite_of_a_gradient_that_is_not():
    param, grad, m, v = (np.ones(5, np.float32) for _ in range(4))
    grad[2] = np.nan
    adamw_kernel.adamw_step(param, grad, m, v, 1e-3, 0.9, 0.99, 1e-8, 0.1, 1, 1.0)
    np.testing.assert_array_equal(np.isnan(param), np.isnan(grad))


@leaf
def _exp_into(part, parts, x, y):
    for i in range(x.size * part // parts, x.size * (part + 1) // parts):
        y[i] = exp(x[i])


def _exp_of(x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    _exp_into(x, y)
    return y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, 7, 100_003])
def test_the_norm_of_all_gradients_and_its_clip(size, dtype, threads):
    grad = np.random.default_rng(size).normal(size=size).astype(dtype)
    exact = math.sqrt(math.fsum(grad.astype(np.float64) ** 2))
    limit = 4 * float(np.finfo(dtype).eps)
    for clip in (grad_norm.grad_norm_clip, grad_norm_clip):
        assert clip(grad, 0.5) == pytest.approx((exact, min(1, 0.5 / (exact + 1e-6))), rel=limit)
    assert grad_norm.grad_norm_clip(grad, np.inf) == (grad_norm.grad_norm_clip(grad, 0.5)[0], 1.0)


def test_a_gradient_that_is_no_number_shows_in_the_norm():
    grad = np.ones(5, np.float32)
    grad[3] = np.nan
    assert np.isnan(grad_norm.grad_norm_clip(grad, 1.0)[0])
