"""CUDA kernels of attention on the emulator: what the comparison with PyTorch of every operation does not show.

The ladder, cards without tensor cores for bfloat16, layouts, the same bits in every order of threads, sanitizers, and
faults of each sum.
"""

from contextlib import nullcontext
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tinygrad_llm.devices import cupy, emulated
from tinygrad_llm.kernels.cuda import attention, moved
from tinygrad_llm.kernels.cuda.attention import attention_backward, attention_forward
from tinygrad_llm.kernels.cuda.attention_qkvpacked import attention_qkvpacked_backward, attention_qkvpacked_forward
from tinygrad_llm.kernels.cuda.emulator import cuda, order, sanitize
from tinygrad_llm.kernels.cuda.launch import FOLDER, instead
from tinygrad_llm.ops.attention_qkvpacked import heads
from tinygrad_llm.random import Mask
from tinygrad_llm.verification import FLOORS, relative_error

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NAMES = ("y", "dq", "dk", "dv")
ALL = (True, True, True, False)
KEPT = 0.25  # the probability of dropout

# (B, H, H_kv, T, S, D): less than a tile, more than a block of queries and of keys, shared heads, rows of odd length
SIZES = [(1, 1, 1, 3, 3, 1), (1, 2, 1, 33, 33, 16), (2, 2, 2, 7, 97, 3)]


pytestmark = pytest.mark.usefixtures("cuda")


@pytest.fixture
def old_card(stand_in, monkeypatch):
    monkeypatch.setattr(cuda.Device, "compute_capability", "75")


def numbers(sizes: tuple, dtype: str) -> list[np.ndarray]:
    """q, k, v and dy in float64, of numbers that the dtype holds."""
    batch, n_head, groups, queries, keys, size = sizes
    random = np.random.default_rng(sum(sizes))
    shapes = [(batch, n_head, queries, size), *[(batch, groups, keys, size)] * 2, (batch, n_head, queries, size)]
    return [random.normal(size=shape).astype(DTYPES[dtype]).astype(np.float64) for shape in shapes]


def kept(sizes: tuple) -> np.ndarray:
    batch, n_head, _, queries, keys, _ = sizes
    return np.random.default_rng(1).random((batch, n_head, queries, keys)) >= KEPT


def ours(arrays: list, dtype: str, keep=None, is_causal=True, place=lambda x: x) -> list[np.ndarray]:
    """y, dq, dk and dv by the kernels."""
    cp = cupy()
    q, k, v, dy = (place(cp.asarray(x.astype(DTYPES[dtype]))) for x in arrays)
    keep = cp.asarray(keep) if isinstance(keep, np.ndarray) else keep
    y, *saved = attention_forward(q, k, v, None, keep, KEPT, is_causal)
    results = [y, *attention_backward(dy, *saved, needs=ALL)[:3]]
    assert all(x.dtype == DTYPES[dtype] for x in results)
    return [x.get().astype(np.float64) for x in results]


def by_torch(arrays: list, dtype: str, keep=None, is_causal=True) -> list[np.ndarray]:
    import torch  # here, since a sanitizer does not take it

    q, k, v = (torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True) for x in arrays[:3])
    keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    s = q @ keys.mT / q.shape[-1] ** 0.5
    if is_causal:
        s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    p = s.softmax(-1) if keep is None else s.softmax(-1) * torch.tensor(keep) / (1 - KEPT)
    y = p @ values
    y.backward(torch.tensor(arrays[3], dtype=y.dtype))
    return [x.detach().double().numpy() for x in (y, q.grad, k.grad, v.grad)]


def assert_close(results: list, arrays: list, dtype: str, **options) -> None:
    """At most twice PyTorch's own error in this dtype, as in `verification`."""
    exact, theirs = by_torch(arrays, "float64", **options), by_torch(arrays, dtype, **options)
    for name, mine, reference, torchs in zip(NAMES, results, exact, theirs, strict=True):
        limit = 2 * relative_error(torchs, reference) + FLOORS[dtype]
        assert relative_error(mine, reference) <= limit, name


def assert_same_bits(results: list, others: list) -> None:
    for name, mine, other in zip(NAMES, results, others, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=name)


@pytest.mark.parametrize("version", ["versions/attention_1.cu", "versions/attention_2.cu", "attention.cu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_ladder(version, dtype, old_card):
    with instead("attention.cu", FOLDER / version) if "/" in version else nullcontext():
        for sizes in SIZES:
            arrays, is_causal = numbers(sizes, dtype), sizes[3] == sizes[4]
            assert_close(
                ours(arrays, dtype, kept(sizes), is_causal), arrays, dtype, keep=kept(sizes), is_causal=is_causal
            )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensor_cores_with_dropout(dtype):
    for sizes in SIZES:
        arrays, is_causal = numbers(sizes, dtype), sizes[3] == sizes[4]
        assert_close(ours(arrays, dtype, kept(sizes), is_causal), arrays, dtype, keep=kept(sizes), is_causal=is_causal)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 64), ("float32", 128), ("bfloat16", 64), ("bfloat16", 128)])
def test_rows_of_a_full_width_are_loaded_16_bytes_at_a_time(dtype, size):
    """And the order of threads makes no difference to a bit."""
    sizes, results = (1, 2, 1, 97, 97, size), []
    arrays = numbers(sizes, dtype)
    for each in ("forward", "reverse", "random"):
        with order(each):
            results.append(ours(arrays, dtype))
    assert_close(results[0], arrays, dtype)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_far_below_zero(dtype):
    """All of them by 2^14, on which no probability depends; and where there is no key, e^{-lse} would be infinite."""
    arrays = numbers((1, 1, 1, 41, 97, 16), dtype)
    arrays[0][..., 0], arrays[1][..., 0] = 256, -256
    assert_close(ours(arrays, dtype, is_causal=False), arrays, dtype, is_causal=False)


def test_scores_that_fall_from_tile_to_tile():
    """By 128: the largest so far stays, since e^128, to scale what has been summed, is infinite."""
    arrays = numbers((1, 1, 1, 7, 97, 16), "float32")
    arrays[0][..., 0], arrays[1][..., :32, 0], arrays[1][..., 32:, 0] = 16, 16, -16
    assert_close(ours(arrays, "float32", is_causal=False), arrays, "float32", is_causal=False)


def off_by_one(x):
    """The same array, one number off the address that it would have, so that no 16 bytes can be loaded at once."""
    memory = cupy().empty(x.size + 1, x.dtype)
    memory[1:] = x.reshape(-1)
    return memory[1:].reshape(x.shape)


def rows_of_heads(x):
    """(B, H, T, D) as a view of (B, T, H, D), as a projection gives it."""
    return cupy().ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)


def one_between_rows(x):
    """The same rows, of which only some begin where 16 bytes can be loaded at once."""
    memory = cupy().empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    memory[..., :-1] = x
    return memory[..., :-1]


@pytest.mark.parametrize("place", [off_by_one, rows_of_heads, one_between_rows])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_bits_wherever_arrays_lie(place, dtype):
    arrays = numbers((2, 3, 3, 40, 40, 64), dtype)
    assert_same_bits(ours(arrays, dtype), ours(arrays, dtype, place=place))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_is_the_same_read_where_it_stands(dtype):
    qkv, dy = (np.random.default_rng(0).normal(size=(2, 40, n * 3 * 64)).astype(DTYPES[dtype]) for n in (3, 1))
    cp, (q, k, v), d = cupy(), heads(qkv, 3), dy.reshape(2, 40, 3, 64).swapaxes(1, 2)
    expected = ours([x.astype(np.float64) for x in (q, k, v, d)], dtype)
    y, *saved = attention_qkvpacked_forward(cp.asarray(qkv), 3)
    dqkv = attention_qkvpacked_backward(cp.asarray(dy), *saved).get()
    y = y.get().reshape(2, 40, 3, 64).swapaxes(1, 2)
    assert_same_bits([x.astype(np.float64) for x in (y, *heads(dqkv, 3))], expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mask_in_registers_is_the_mask_as_an_array(dtype):
    sizes = (1, 2, 1, 33, 33, 16)
    arrays, mask = numbers(sizes, dtype), Mask(2**40 + 3, (1, 2, 33, 33), KEPT)
    assert_same_bits(ours(arrays, dtype, mask), ours(arrays, dtype, mask.array(np.empty(0))))


def test_what_the_kernels_do_not_take_the_page_computes_and_says_so_once(monkeypatch):
    """Also in 16 bits, where its steps in that dtype would lose most of the digits."""
    monkeypatch.setattr("tinygrad_llm.kernels._noted", set())  # which other tests of this process may have filled
    for size, masked in [(130, False), (16, True)]:
        arrays = numbers((1, 1, 1, 9, 9, size), "bfloat16")
        q, k, v, dy = (cupy().asarray(x.astype(DTYPES["bfloat16"])) for x in arrays)
        mask = cupy().asarray(np.tri(9, dtype=bool)) if masked else None
        with pytest.warns(UserWarning, match="masks other" if masked else "heads of 130 numbers") as caught:
            for _ in range(2):
                y, *saved = attention_forward(q, k, v, mask, is_causal=not masked)
        assert len(caught) == 1
        gradients = attention_backward(dy, *saved, needs=ALL)[:3]
        assert_close([x.get().astype(np.float64) for x in (y, *gradients)], arrays, "bfloat16")


def test_bfloat16_takes_tensor_cores_where_they_do(stand_in, monkeypatch):
    for capability, file in [("75", "attention.cu"), ("80", "attention_mma.cu"), ("100", "attention_mma.cu")]:
        monkeypatch.setattr(cuda.Device, "compute_capability", capability)
        assert attention.version("bfloat16", 64, False)[0] == file
        assert attention.version("float16", 64, False)[0] == "attention_mma.cu"
        assert attention.version("float32", 64, False)[0] == "attention.cu"


def test_work_is_the_least_but_for_rows_read_again():
    """One block of queries and of keys reads every array once: q, dy, k and v twice backward, by two kernels."""
    q, k = np.empty((2, 4, 64, 32), np.float16), np.empty((2, 2, 64, 32), np.float16)
    forward, backward = moved.attention(q, k, is_causal=False)
    of_rows = 4 * 2 * 4 * 64
    assert forward == (4 * 2 * 4 * 64 * 64 * 32, 4 * q.nbytes + of_rows)
    assert backward == (
        14 * 2 * 4 * 64 * 64 * 32,
        4 * q.nbytes + 2 * q.nbytes + 4 * k.nbytes + 2 * q.nbytes + 4 * of_rows,
    )
    assert moved.attention(q, k, True)[0].flops == 4 * 2 * 4 * (64 * 65 // 2) * 32


@pytest.mark.parametrize(("dtype", "rows", "share"), [("float32", 32, 8.7), ("float16", 64, 4.7)])
def test_a_causal_head_is_read_as_often_as_the_source_says(dtype, rows, share):
    q = np.empty((1, 1, 1024, 64), dtype)
    forward, _ = moved.attention(q, q, True, rows, rows)
    assert round(forward.bytes / (4 * q.nbytes + 4 * 1024), 1) == share


def exercise() -> None:
    """All kernels, on sizes that leave parts of tiles, with dropout."""
    sizes = (1, 2, 1, 37, 37, 20)
    with emulated():
        for dtype in ("float32", "bfloat16"):
            ours(numbers(sizes, dtype), dtype, kept(sizes))


def exercise_instead(file: str) -> None:
    with instead(FOLDER / Path(file).name, Path(file)):
        exercise()


@pytest.mark.parametrize(
    "sanitizer", ["thread", *(pytest.param(x, marks=pytest.mark.slow) for x in ("address", "memory"))]
)
def test_no_race_no_overrun_nothing_unwritten(sanitizer):
    assert sanitize.call(sanitizer, exercise) == []


def test_a_race_is_found(tmp_path):
    """A warp sums up with scores that its own lanes have not written yet."""
    path = tmp_path / "attention.cu"
    path.write_text((FOLDER / path.name).read_text().replace("    __syncwarp();\n", "\n"))
    found = sanitize.call("thread", exercise_instead, str(path))
    assert found and all(".cu" in line for line in found)


# Of each sum: what it is made of wrongly, and the only results that are wrong then
FAULTS = {
    "dq": ("float32", "attention.cu", "factor * dp[r]) - dot[r]);", "factor * dp[r]));", {"dq"}),
    "dk": ("float32", "attention.cu", "factor * dp[r]) - dot);", "factor * dp[r]));", {"dk"}),
    "dv": ("float32", "attention.cu", "drop[r] ? 0.0f : p[r];", "p[r];", {"dv"}),
    "dq by tensor cores": ("bfloat16", "attention_mma.cu", "dp[n][e]) - dot[e / 2]);", "dp[n][e]));", {"dq"}),
    "dk by tensor cores": ("bfloat16", "attention_mma.cu", "dp[n][e]) - dots[column]);", "dp[n][e]));", {"dk"}),
    "dv by tensor cores": (
        "bfloat16",
        "attention_mma.cu",
        "p[n][e] = drop ? 0.0f : whole;",
        "p[n][e] = whole;",
        {"dv"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_seen(fault, planted):
    dtype, file, old, new, wrong = FAULTS[fault]
    sizes = (1, 2, 1, 33, 33, 16)
    arrays = numbers(sizes, dtype)
    expected = by_torch(arrays, "float64", keep=kept(sizes))
    with instead(file, planted(file, old, new)):
        results = ours(arrays, dtype, kept(sizes))
    errors = {name: relative_error(*pair) for name, *pair in zip(NAMES, results, expected, strict=True)}
    assert {name for name, error in errors.items() if error > 0.02} == wrong
