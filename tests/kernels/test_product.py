"""The matrix product against NumPy's in float64: odd sizes, every layout, the rims of its tiles, NaN and infinity."""

import os
import platform
import subprocess
import sys

import numba
import numpy as np
import pytest

from tinygrad_llm.kernels.numba import vectors
from tinygrad_llm.kernels.numba.product import product

SIZES = [1, 3, 7, 33, 80, 97]
SHAPES = [(m, k, n) for m in SIZES for k in (1, 33, 600) for n in SIZES] + [(300, 33, 7), (7, 33, 1700)]
"""600 is more than one stretch of k, 300 rows and 1700 columns are more than a thread's strips and panels in the cache;
33 and 97 columns end within a vector, 80 with a tile's second one."""


def operands(m, k, n, dtype):
    random = np.random.default_rng(m * k * n)
    return random.normal(size=(m, k)).astype(dtype), random.normal(size=(k, n)).astype(dtype)


def layouts(x):
    """The same matrix by rows, by columns, and with gaps."""
    return np.ascontiguousarray(x), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_shape_and_layout(dtype):
    for shape in SHAPES:
        a, b = operands(*shape, dtype)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        scale = np.abs(a).astype(np.float64) @ np.abs(b)  # what rounding is measured against
        for x in layouts(a):
            for y in layouts(b):
                c = product(x, y)
                assert c.dtype == dtype
                assert (np.abs(c - exact) <= 8 * np.finfo(dtype).eps * scale).all(), shape


def test_nothing_to_sum_or_to_fill():
    assert (product(np.ones((3, 0), "f"), np.ones((0, 5), "f")) == np.zeros((3, 5))).all()
    assert product(np.ones((0, 4), "f"), np.ones((4, 5), "f")).shape == (0, 5)


def test_nan_and_infinity_reach_what_depends_on_them_and_nothing_else():
    a, b = operands(33, 97, 65, "float32")
    a[5, 7], a[20, 3] = np.nan, np.inf
    c, expected = product(a, b), a @ b
    assert np.array_equal(np.isnan(c), np.isnan(expected))
    assert np.array_equal(np.isinf(c), np.isinf(expected))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bits_are_the_same_each_time(threads):
    a, b = operands(97, 600, 65, "float32")
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        results = {product(a, b).tobytes() for _ in range(5)}
    finally:
        numba.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("add", [False, True])
def test_the_sums_of_rows_are_made_on_the_way(dtype, add):
    for m, k, n in SHAPES:
        a, b = operands(m, k, n, dtype)
        for x in layouts(a):
            sums = np.ones(m, dtype)
            c = product(x, b, sums=sums, add_sums=add)
            assert (np.abs(sums - add - a.sum(axis=1, dtype=float)) <= 1000 * np.finfo(dtype).eps).all(), (m, k, n)
            np.testing.assert_array_equal(c, product(x, b))


def test_the_result_is_written_or_added_where_it_is_wanted():
    a, b = operands(33, 97, 65, "float32")
    out = np.ones((2, 33, 65), "float32")
    assert (product(a, b, out[0]) == out[0]).all()
    np.testing.assert_allclose(out[0], a @ b, atol=1e-4)
    assert (out[1] == 1).all()
    product(a, b, out[1], add=True)
    np.testing.assert_allclose(out[1], 1 + a @ b, atol=1e-4)
    np.testing.assert_allclose(product(a, b, bias=b[0]), a @ b + b[0], atol=1e-4)


TILE = """
import numba, numpy
from tinygrad_llm.kernels.numba.product import multiply_strip
tile = numba.njit(lambda a, b, c: multiply_strip(a, 0, 33, 1, b, 0, 48, 33, c, 0, 48, c, 0, 48, 48))
tile(*numpy.ones((3, 33 * 48), "f"))
print(*tile.inspect_asm().values())
"""
AVX2, AVX = ("haswell", "+avx2,+fma"), ("sandybridge", "+avx")  # and not fma


def instructions(*machine: str) -> list[str]:
    """Of a tile, for this machine or for one of this name and these features."""
    forced = dict(zip(("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"), machine, strict=False))
    done = subprocess.run(
        [sys.executable, "-c", TILE], env=os.environ | forced, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for x86's instructions")
@pytest.mark.parametrize("machine", [(), AVX2])
def test_a_tile_is_made_of_vector_instructions(machine):
    """The inner loop's multiply-adds, three for each row of the tile, work on whole vectors held in registers."""
    wide = vectors.AVX512 and not machine
    fused = [line for line in instructions(*machine) if "vfmadd" in line]
    assert len(fused) >= 3 * (8 if wide else 4)  # LLVM may do several steps along k in one turn
    assert all(line.count("zmm" if wide else "ymm") == 3 for line in fused)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for x86's instructions")
def test_a_machine_without_fused_instructions_multiplies_and_adds_vectors():
    lines = instructions(*AVX)
    assert not [line for line in lines if "fma" in line]
    for name in ("vmulps", "vaddps"):
        assert len([line for line in lines if name in line and line.count("ymm") >= 2]) >= 3 * 4
