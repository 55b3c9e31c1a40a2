"""CUDA kernels of embedding and the losses, on the emulator: what the comparison with PyTorch of every operation does
not show. Repeated tokens, long rows, every order of threads, gradients added in place, faults."""

from importlib import import_module
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tinygrad_llm.devices import cupy, emulated
from tinygrad_llm.kernels.cuda import cross_entropy, embedding, linear_cross_entropy
from tinygrad_llm.kernels.cuda.emulator import order, sanitize
from tinygrad_llm.kernels.cuda.emulator.standin import synchronizations
from tinygrad_llm.kernels.cuda.launch import FOLDER, instead
from tinygrad_llm.ops import cross_entropy as cross_entropy_page
from tinygrad_llm.ops import linear_cross_entropy as linear_cross_entropy_page
from tinygrad_llm.verification import relative_error

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LIMITS = {"float32": 8 * 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
ORDERS = ["forward", "reverse", "random"]
random = np.random.default_rng(0)


pytestmark = pytest.mark.usefixtures("cuda")


def numbers(*shape: int, dtype: str = "float32", scale: float = 1.0) -> np.ndarray:
    """Float64 with values that the dtype holds exactly."""
    return (scale * random.normal(size=shape)).astype(DTYPES[dtype]).astype(np.float64)


def on_device(x: np.ndarray, dtype: str = "float32", unaligned: bool = False):
    x = cupy().asarray(x.astype(DTYPES[dtype]) if x.dtype.kind == "f" else x)
    if not unaligned:
        return x
    memory = cupy().empty(x.size + 1, x.dtype)
    memory[1:] = x.reshape(-1)
    return memory[1:].reshape(x.shape)


def off(ours, exact: np.ndarray) -> float:
    return relative_error(ours.get().astype(np.float64), exact)


# Embedding


def gradient_of_table(dy, ids, rows: int, dtype: str = "float32", out=(None, False), padding_idx=None, unaligned=False):
    table = on_device(np.zeros((rows, dy.shape[-1])), dtype)
    _, *saved = embedding.embedding_forward(table, on_device(ids), padding_idx)
    return embedding.embedding_backward(on_device(dy, dtype, unaligned), *saved, [out])


def exact_gradient(dy, ids, rows: int) -> np.ndarray:
    dweight = np.zeros((rows, dy.shape[-1]))
    np.add.at(dweight, ids, dy)
    return dweight


@pytest.mark.parametrize("unaligned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_that_comes_often_sums_all_its_gradients(dtype, unaligned):
    """Most tokens are one and the same; slices of more columns than a warp has, and columns that are no whole pack."""
    for width in (13, 264):
        ids = np.where(random.random(300) < 0.8, 3, random.integers(0, 40, 300)).reshape(3, 100)
        dy = numbers(3, 100, width, dtype=dtype)
        dweight = gradient_of_table(dy, ids, 40, dtype, unaligned=unaligned)
        assert dweight.dtype == DTYPES[dtype]
        assert off(dweight, exact_gradient(dy, ids, 40)) <= LIMITS[dtype]


def test_the_sums_have_the_same_bits_in_every_order_of_threads():
    ids, dy = random.integers(0, 7, 700), numbers(700, 9)
    results = []
    for name in ORDERS:
        with order(name):
            results.append(gradient_of_table(dy, ids, 7).get())
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()


def test_a_table_shared_with_another_layer_has_the_gradient_added():
    """Rows that no token has are left alone: they are not even read."""
    ids, dy, before = np.array([5, 8, 5]), numbers(3, 13), numbers(9, 13)
    before[0] = np.nan
    place = on_device(before)
    assert gradient_of_table(dy, ids, 9, out=(place, True)) is place
    exact = before + exact_gradient(dy, ids, 9)
    np.testing.assert_allclose(place.get(), exact, atol=1e-6)
    assert gradient_of_table(dy, ids, 9, out=(place, False)) is place
    assert off(place, exact_gradient(dy, ids, 9)) <= LIMITS["float32"]


def test_padding_and_ids_of_no_row_have_no_gradient():
    ids, dy = np.array([1, 4, 5, -3, 1]), numbers(5, 8)
    table = on_device(numbers(5, 8))
    y, *_ = embedding.embedding_forward(table, on_device(ids))
    assert np.isnan(y.get()).all(axis=1).tolist() == [False, False, True, True, False]
    dweight = gradient_of_table(dy, ids, 5, padding_idx=-1).get()
    exact = np.zeros((5, 8))
    exact[1] = dy[0] + dy[4]
    np.testing.assert_allclose(dweight, exact, atol=1e-6)


def test_nothing_to_look_up():
    assert gradient_of_table(numbers(0, 4), np.zeros(0, np.int64), 3).get().tolist() == [[0] * 4] * 3


# Cross-entropy


def losses(logits, targets, dy, dtype="float32", unaligned=False, **options):
    y, *saved = cross_entropy.cross_entropy_forward(on_device(logits, dtype, unaligned), on_device(targets), **options)
    return y, cross_entropy.cross_entropy_backward(on_device(dy, dtype), *saved)


def exact_losses(logits, targets, dy, **options):
    y, *saved = cross_entropy_page.forward(logits, targets, **options)
    return y, cross_entropy_page.backward(dy, *saved)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "reduction": "none", "ignore_index": 2}])
def test_rows_longer_than_a_block_and_anywhere_in_memory(dtype, options, monkeypatch):
    monkeypatch.setattr(cross_entropy, "MOST_THREADS", 64)
    for classes in (700, 1023):
        logits, targets = numbers(4, classes, dtype=dtype, scale=5), np.array([0, 2, classes - 1, -100])
        targets[3] = options.get("ignore_index", -100)
        dy = numbers(*(4,) * ("reduction" in options), dtype=dtype)
        exact = exact_losses(logits, targets, dy, **options)
        for unaligned in (False, True):
            results = losses(logits, targets, dy, dtype, unaligned, **options)
            assert max(map(off, results, exact)) <= LIMITS[dtype]


def test_losses_have_the_same_bits_in_every_order_of_threads():
    logits, targets = numbers(3, 1500, scale=10), np.array([7, 0, 1499])
    results = []
    for name in ORDERS:
        with order(name):
            results.append([x.get() for x in losses(logits, targets, np.array(2.0))])
    for other in results[1:]:
        assert all(map(np.array_equal, results[0], other))


def test_a_row_for_as_many_threads_as_a_block_may_have():
    logits, targets = numbers(1, 16 * cross_entropy.MOST_THREADS), np.array([5])
    results = losses(logits, targets, np.array(1.0))
    assert max(map(off, results, exact_losses(logits, targets, np.array(1.0)))) <= LIMITS["float32"]


@pytest.mark.parametrize("kept", [0, 64, None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_over_the_logits_whatever_part_of_a_row_is_kept(dtype, kept, monkeypatch):
    """As many bytes of shared memory as a GPU has may hold none of a row, a part, or all."""
    monkeypatch.setattr(cross_entropy, "MOST_THREADS", 32)
    if kept is not None:
        most = cross_entropy.STATIC + 16 * kept
        monkeypatch.setattr(cupy().cuda.runtime, "deviceGetAttribute", lambda attribute, device: most)
    logits, targets = numbers(4, 777, dtype=dtype, scale=5), np.array([0, 776, -100, 400])
    for smoothing in (0.0, 0.1):
        exact, dx = exact_losses(logits, targets, np.ones(4), reduction="none", label_smoothing=smoothing)
        for unaligned in (False, True):
            x, found = on_device(logits, dtype, unaligned), cupy().empty(4, np.float32)
            for gradient in (False, True):
                cross_entropy.losses_in_place(x, on_device(targets), -100, smoothing, found, gradient)
                assert off(found, exact) <= LIMITS["float32"]
            assert off(x, dx) <= LIMITS[dtype]


def test_what_is_not_finite_and_targets_that_are_no_class():
    logits = numbers(6, 40)
    logits[0, 3], logits[1, 3], logits[2, 3], logits[3] = np.nan, np.inf, -np.inf, -np.inf
    targets = np.array([0, 0, 0, 0, 40, -1])
    y, dx = losses(logits, targets, np.ones(6), reduction="none")
    assert np.isnan(y.get()).tolist() == [True, True, False, True, True, True]
    assert np.isnan(dx.get()).any(axis=1).tolist()[:4] == [True, True, False, True]
    assert dx.get()[2, 3] == 0


# The head with its loss


def head(h, weight, targets, dtype="float32", out=((None, False), (None, False)), dy=1.5, **options):
    arrays = on_device(h, dtype), on_device(weight, dtype), on_device(targets)
    y, *saved = linear_cross_entropy.linear_cross_entropy_forward(*arrays, **options, needs=(True, True))
    dy = on_device(np.array(dy), dtype)
    return y, *linear_cross_entropy.linear_cross_entropy_backward(dy, *saved, out)


def exact_head(h, weight, targets, dy=1.5, **options):
    y, *saved = linear_cross_entropy_page.forward(h, weight, targets, **options)
    return y, *linear_cross_entropy_page.backward(np.array(dy), *saved, (True, True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"reduction": "sum", "label_smoothing": 0.2}])
def test_the_head_in_chunks(dtype, options, monkeypatch):
    h, weight = numbers(50, 12, dtype=dtype), numbers(70, 12, dtype=dtype)
    targets = np.where(random.random(50) < 0.2, -100, random.integers(0, 70, 50))
    exact = exact_head(h, weight, targets, **options)
    monkeypatch.setattr(import_module("tinygrad_llm.ops.linear_cross_entropy"), "LOGITS", 1000)
    for ours, expected in zip(head(h, weight, targets, dtype, **options), exact, strict=True):
        assert ours.dtype == DTYPES[dtype]
        assert off(ours, expected) <= 3 * LIMITS[dtype]  # the logits and their gradient are rounded on the way


def test_the_mean_of_a_single_token_that_counts():
    h, weight, targets = numbers(2, 9), numbers(11, 9), np.array([3, -100])
    assert max(map(off, head(h, weight, targets), exact_head(h, weight, targets))) <= LIMITS["float32"]


def test_a_small_gradient_survives_float16():
    """Divided by the number of tokens before it is stored, a probability would be less than float16 can hold."""
    h, weight, targets = numbers(2000, 8, dtype="float16"), numbers(300, 8, dtype="float16"), np.full(2000, 7)
    _, dh, dweight = head(h, weight, targets, "float16", dy=2048.0)
    _, exact_dh, exact_dweight = exact_head(h, weight, targets, dy=2048.0)
    assert max(off(dh, exact_dh), off(dweight, exact_dweight)) <= 3 * LIMITS["float16"]


def test_the_heads_gradient_is_written_or_added_where_it_is_wanted():
    h, weight, targets, before = numbers(7, 9), numbers(11, 9), random.integers(0, 11, 7), numbers(11, 9)
    _, _, dweight = exact_head(h, weight, targets)
    for add in (True, False):
        place = on_device(before)
        assert head(h, weight, targets, out=((None, False), (place, add)))[2] is place
        assert off(place, dweight + add * before) <= LIMITS["float32"]


def test_nothing_waits_for_the_device(stand_in):
    ids = on_device(random.integers(0, 11, 7))
    table, h, dy = on_device(numbers(11, 9)), on_device(numbers(7, 9)), on_device(np.array(1.0))
    with synchronizations() as notes:
        y, *saved = embedding.embedding_forward(table, ids)
        embedding.embedding_backward(y, *saved, [(None, False)])
        _, *saved = cross_entropy.cross_entropy_forward(h, ids % 9)
        cross_entropy.cross_entropy_backward(dy, *saved)
        _, *saved = linear_cross_entropy.linear_cross_entropy_forward(h, table, ids, needs=(True, True))
        linear_cross_entropy.linear_cross_entropy_backward(dy, *saved, [(None, False)] * 2)
    assert notes == []


# Faults: text of a file, what replaces it, and what shows it


def embedding_error() -> float:
    """Where a gradient has been before, and tokens repeat."""
    ids, dy, place = np.array([5, 2, 5]), numbers(3, 12), on_device(numbers(9, 12))
    return off(gradient_of_table(dy, ids, 9, out=(place, False)), exact_gradient(dy, ids, 9))


def in_place_error() -> float:
    logits, targets = numbers(3, 300), np.array([0, 50, 299])
    exact = exact_losses(logits, targets, np.ones(3), reduction="none", label_smoothing=0.1)
    x, found = on_device(logits), cupy().empty(3, np.float32)
    cross_entropy.losses_in_place(x, on_device(targets), -100, 0.1, found, True)
    return max(map(off, (found, x), exact))


def head_error() -> float:
    h, weight, targets, before = numbers(7, 9), numbers(11, 9), random.integers(0, 11, 7), numbers(11, 9)
    place = on_device(before)
    head(h, weight, targets, out=((None, False), (place, True)))
    return off(place, before + exact_head(h, weight, targets)[2])


FAULTS = [
    ("embedding.cu", "sum = sum + load(dy", "sum = load(dy", embedding_error),
    ("embedding.cu", "add && !count", "!count", embedding_error),
    ("cross_entropy.cu", "dx.at[j] -= (1 - smoothing) * dloss", "dx.at[j] -= dloss", in_place_error),
    ("cross_entropy.cu", "  __syncthreads();  // the target's logit has been read\n", "", in_place_error),
    ("cross_entropy.cu", "total *= expf(highest - finite(most))", "total *= 1", in_place_error),
    ("linear_cross_entropy.cu", "add ? load(y + i, left) + scaled : scaled", "scaled", head_error),
]


def exercise() -> None:
    """All kernels, on sizes that leave parts of packs, warps and blocks."""
    with emulated():
        gradient_of_table(numbers(37, 13), random.integers(0, 9, 37), 11, padding_idx=3)
        losses(numbers(3, 301), np.array([0, 5, 300]), np.array(1.0), label_smoothing=0.1)
        head(numbers(5, 9), numbers(301, 9), np.arange(5))


def exercise_instead(file: str) -> None:
    """The same with another file in the place of ours of its name."""
    with instead(FOLDER / Path(file).name, Path(file)):
        exercise()


@pytest.mark.parametrize(
    "sanitizer", ["thread", *(pytest.param(x, marks=pytest.mark.slow) for x in ("address", "memory"))]
)
def test_no_race_no_overrun_nothing_unwritten(sanitizer):
    assert sanitize.call(sanitizer, exercise) == []


def test_a_race_is_found_with_its_lines(tmp_path):
    """Thread 0 reads the target's logit while another writes the gradient over it."""
    path, barrier = tmp_path / "cross_entropy.cu", "  __syncthreads();  // the target's logit has been read\n"
    path.write_text((FOLDER / path.name).read_text().replace(barrier, "\n"))
    found = sanitize.call("thread", exercise_instead, str(path))
    assert found and all("cross_entropy.cu" in line or "common.cuh" in line for line in found)


@pytest.mark.parametrize("error", [embedding_error, in_place_error, head_error])
def test_no_fault_is_seen_where_none_is(error):
    with order("reverse"):
        assert error() <= LIMITS["float32"]


@pytest.mark.parametrize(("file", "old", "new", "error"), FAULTS)
def test_a_seeded_fault_is_seen(file, old, new, error, planted):
    with instead(file, planted(file, old, new)), order("reverse"):
        assert error() > 1e-3
