"""CUDA kernels that have no page of an operation: dropout's mask, AdamW, the norm of all gradients; on the emulator."""

from contextlib import ExitStack

import numpy as np
import pytest

from tinygrad_llm import devices, kernels, random
from tinygrad_llm.devices import to_device
from tinygrad_llm.kernels.cuda import DTYPES, grad_norm
from tinygrad_llm.kernels.cuda.emulator import order, sanitize
from tinygrad_llm.kernels.cuda.launch import instead
from tinygrad_llm.ops import attention, attention_qkvpacked, dropout
from tinygrad_llm.optim.adamw import adamw_step
from tinygrad_llm.optim.optimizer import grad_norm_clip
from tinygrad_llm.tensor import Tensor

SHAPES = [(), (1,), (3, 5), (5, 257), (2, 2, 33, 33)]
SIZES = [1, 7, 1500]
ORDERS = ["forward", "reverse", "random"]
SEED = 0xFEDCBA9876543210


pytestmark = pytest.mark.usefixtures("cuda")


def normal(*shape, dtype="float32", seed=0):
    dtype = devices.device_or_dtype(dtype)[1]
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(dtype)


@pytest.mark.parametrize("threads", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_has_the_same_bits_as_on_the_cpu(shape, threads):
    mask = random.Mask(SEED, shape, 0.3)
    here, there = mask.array(np.zeros(1, np.float32)), to_device(np.zeros(1, np.float32), "cuda")
    with order(threads):
        found = mask.array(there)
    assert devices.on_device(found) and found.dtype == bool
    np.testing.assert_array_equal(found.get(), here)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_dropout_makes_that_mask_in_registers_forward_and_backward(shape, dtype):
    mask, x = random.Mask(SEED, shape, 0.25), Tensor(normal(*shape, dtype=dtype)).to("cuda").requires_grad_()
    y = dropout(x, mask, 0.25)
    y.backward(to_device(np.ones(shape, x.dtype), "cuda"))
    keep = mask.array(np.zeros(1, np.float32))
    expected = np.where(keep, x.data.get().astype(np.float64) / 0.75, 0)
    rounding = {"float32": 2**-23, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(y.data.get().astype(np.float64), expected, rtol=rounding)
    np.testing.assert_array_equal(x.grad.get() != 0, keep)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_attention_makes_the_same_mask_in_registers(p):
    qkv, mask = normal(2, 33, 3 * 8), random.Mask(SEED, (2, 2, 33, 33), p)
    q, k, v = (normal(2, 2, 33, 4, seed=seed) for seed in range(3))
    for operation, inputs, options in (
        (attention_qkvpacked, [qkv], {"n_head": 2}),
        (attention, [q, k, v], {"is_causal": True}),
    ):
        results = []
        for device in ("cpu", "cuda"):
            tensors = [Tensor(x).to(device).requires_grad_() for x in inputs]
            y = operation(*tensors, **options, keep=mask, dropout_p=p)
            y.backward(to_device(normal(*y.shape, seed=7), device))
            results.append([to_device(x, "cpu") for x in (y.data, *(tensor.grad for tensor in tensors))])
        for here, there in zip(*results, strict=True):
            np.testing.assert_allclose(there, here, atol=1e-5)


@pytest.mark.parametrize("word", range(4))
def test_a_number_at_the_threshold_is_kept(word):
    """Of four made at once, and of each made by itself, as in attention."""
    bits = random.philox((0, 0, 0, 0), (SEED & random.LOW, SEED >> 32))[word] >> 8
    mask = random.Mask(SEED, (1, 1, 1, 4), bits / 2**24)
    here, there = (mask.array(to_device(np.zeros(1, np.float32), device)) for device in ("cpu", "cuda"))
    values = np.eye(4, dtype=np.float32)[None, None]  # so that y is the probabilities
    q, k, v = (Tensor(x).to("cuda") for x in (normal(1, 1, 1, 4), normal(1, 1, 4, 4), values))
    y = attention(q, k, v, keep=mask, dropout_p=mask.p).data.get()
    assert here[..., word].all()
    np.testing.assert_array_equal(there.get(), here)
    np.testing.assert_array_equal(y != 0, here)


def buffers(size, dtype, offset):
    """param, grad, m and v; with an offset, where packs of 16 bytes do not begin."""
    arrays = [normal(size + offset, dtype=dtype, seed=seed) for seed in range(2)]
    arrays += [normal(size + offset, seed=2), np.abs(normal(size + offset, seed=3))]
    return [array[offset:] for array in arrays], [to_device(array, "cuda")[offset:] for array in arrays]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_adamw_is_the_pages(size, dtype, offset):
    here, there = buffers(size, dtype, offset)
    expected = [array.astype(np.float64) for array in here]
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "eps": 1e-2, "weight_decay": 0.1, "step": 3}
    adamw_step(*expected, **settings, scale=0.5)
    scale = to_device(np.array(0.5, np.float32), "cuda")
    kernels.select("adamw_step", adamw_step, there[0])(*there, **settings, scale=scale)
    rounding = {"float32": 2**-22, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(there[0].get().astype(np.float64), expected[0], rtol=rounding, atol=1e-6)
    np.testing.assert_array_equal(there[1].get(), here[1])
    for array, one in zip(there[2:], expected[2:], strict=True):
        np.testing.assert_allclose(array.get(), one, rtol=1e-6, atol=1e-7)


def test_a_group_without_parameters_is_nothing_to_do():
    there = buffers(0, "float32", 0)[1]
    kernels.select("adamw_step", adamw_step, there[0])(*there, 1e-2, 0.9, 0.99, 1e-8, 0.1, 3, 1.0)
    assert there[0].size == 0


def test_adamw_takes_a_scale_of_the_host_and_none():
    results = []
    for scale in (1.0, 0.5, *(to_device(np.array(x, np.float32), "cuda") for x in (1.0, 0.5))):
        _, there = buffers(33, "float32", 0)
        kernels.select("adamw_step", adamw_step, there[0])(*there, 1e-2, 0.9, 0.99, 1e-8, 0.1, 3, scale)
        results.append(there[0].get())
    np.testing.assert_array_equal(results[:2], results[2:])
    assert (results[0] != results[1]).any()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, 20_000])
def test_the_norm_of_all_gradients_and_its_clip(size, dtype, offset, orders=ORDERS):
    (_, grad, *_), (_, there, *_) = buffers(size, dtype, offset)
    exact = np.linalg.norm(grad.astype(np.float64))
    run, found = kernels.select("grad_norm_clip", grad_norm_clip, there), []
    for threads in orders:
        with order(threads):
            found.append([float(x) for x in run(there, 0.5)])
    assert all(one == found[0] for one in found)  # the same bits
    assert found[0] == pytest.approx([exact, min(1, 0.5 / (exact + 1e-6))], rel=1e-6)
    assert [float(x) for x in run(there, np.inf)] == [found[0][0], 1.0]


def test_more_gradients_than_all_blocks_read_at_once_and_more_blocks_than_threads(monkeypatch):
    monkeypatch.setattr(grad_norm, "BLOCKS", 300)
    test_the_norm_of_all_gradients_and_its_clip(400_000, "float32", 0, orders=ORDERS[:1])


def test_a_gradient_that_is_no_number_shows_in_the_norm():
    there = to_device(np.array([1, np.nan, 2], np.float32), "cuda")
    assert np.isnan(float(kernels.select("grad_norm_clip", grad_norm_clip, there)(there, 1.0)[0]))


FAULTS = {
    "the mean of squares decays as that of gradients": ("adamw.cu", "square[j] += share2", "square[j] += share1"),
    "the clip is forgotten": ("adamw.cu", "to_float(g[part + j]) * clip", "to_float(g[part + j])"),
    "the tail is left out": ("grad_norm.cu", "i < n; i += width", "i + Pack::size <= n; i += width"),
    "another constant of Philox": ("philox.cuh", "0xBB67AE85u", "0xBB67AE84u"),
    "nine rounds": ("philox.cuh", "round < 10", "round < 9"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_seen(fault, planted):
    file, old, new = FAULTS[fault]
    kernels_of = planted(file, old, new).with_suffix(".cu")
    with ExitStack() as stack, pytest.raises(AssertionError):
        stack.enter_context(instead(kernels_of.name, kernels_of))
        if file == "adamw.cu":
            test_adamw_is_the_pages(7, "float32", 0)
        elif file == "grad_norm.cu":
            test_the_norm_of_all_gradients_and_its_clip(7, "float32", 0)
        else:
            test_a_mask_has_the_same_bits_as_on_the_cpu((5, 257), "forward")


def run_them() -> None:
    """In a process of its own, under a sanitizer."""
    with devices.emulated():
        for dtype in ("float32", "float16"):
            test_adamw_is_the_pages(1500, dtype, 0)
            test_adamw_is_the_pages(7, dtype, 1)
            test_the_norm_of_all_gradients_and_its_clip(1500, dtype, 1, ["forward"])
        test_a_mask_has_the_same_bits_as_on_the_cpu((5, 257), "forward")


@pytest.mark.parametrize("sanitizer", ["thread", "address", "memory"])
def test_nothing_races_overruns_or_reads_what_nobody_wrote(sanitizer):
    assert sanitize.call(sanitizer, run_them) == []
