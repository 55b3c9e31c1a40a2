"""CUDA's matrix products on the emulator: layouts for cuBLAS, gradients added in place, few rows, quantized blocks."""

import ml_dtypes
import numpy as np
import pytest

from tinygrad_llm.devices import cupy, emulated
from tinygrad_llm.kernels.cuda import linear, mlp, moved, precision, quantized_linear
from tinygrad_llm.kernels.cuda.emulator import order, sanitize
from tinygrad_llm.kernels.cuda.emulator.standin import synchronizations
from tinygrad_llm.kernels.cuda.launch import instead
from tinygrad_llm.kernels.cuda.matvec import FEW, matvec
from tinygrad_llm.kernels.cuda.product import product
from tinygrad_llm.ops import mlp as mlp_page
from tinygrad_llm.ops.linear_cross_entropy import chunks
from tinygrad_llm.quantization import quantize
from tinygrad_llm.roofline import WorkCounter
from tinygrad_llm.verification import relative_error

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LIMITS = {"float32": 8 * 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
ORDERS = ["forward", "reverse", "random"]
TYPES = ["Q8_0", "Q4_0", "Q4_1"]
random = np.random.default_rng(0)


pytestmark = pytest.mark.usefixtures("cuda")


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Float64 with values that the dtype holds exactly."""
    return random.normal(size=shape).astype(DTYPES[dtype]).astype(np.float64)


def on_device(x: np.ndarray, dtype: str = "float32"):
    return cupy().asarray(x.astype(DTYPES[dtype]) if x.dtype.kind == "f" else x)


def off(ours, exact: np.ndarray) -> float:
    return relative_error(ours.get().astype(np.float64), exact)


def layouts(x: np.ndarray, dtype: str) -> list:
    """The same matrix on the device: its rows in memory, its columns, some rows of more, some columns, with gaps."""
    rows, columns = x.shape
    taller, wider = cupy().zeros((rows + 3, columns), DTYPES[dtype]), cupy().zeros((rows, columns + 3), DTYPES[dtype])
    gaps = cupy().zeros((rows, 2 * columns), DTYPES[dtype])
    places = taller[2:-1], wider[:, 2:-1], gaps[:, ::-2]
    for place in places:
        place[...] = on_device(x, dtype)
    return [on_device(x, dtype), on_device(x.T.copy(), dtype).T, *places]


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_every_layout(dtype):
    for m, k, n in [(5, 7, 3), (1, 9, 4), (6, 1, 5), (3, 8, 1), (1, 1, 1)]:
        a, b = numbers(m, k, dtype=dtype), numbers(k, n, dtype=dtype)
        for x in layouts(a, dtype):
            for y in layouts(b, dtype):
                c = product(x, y)
                assert c.dtype == DTYPES[dtype]
                assert off(c, a @ b) <= LIMITS[dtype], (m, k, n, x.strides, y.strides)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_written_or_added_where_they_are_wanted(dtype):
    """Also in float32, where halves are to be summed."""
    a, b, before = numbers(5, 7, dtype=dtype), numbers(7, 3, dtype=dtype), numbers(5, 3, dtype=dtype)
    for of_result in {dtype, "float32"}:
        out = on_device(before, of_result)
        assert product(on_device(a, dtype), on_device(b, dtype), out, add=True) is out
        assert off(out, before + a @ b) <= LIMITS[of_result]
        product(on_device(a, dtype), on_device(b, dtype), out)
        assert off(out, a @ b) <= LIMITS[of_result]


@pytest.mark.parametrize("name", ["tf32", "bfloat16", "float16"])
def test_float32_by_tensor_cores_is_as_exact_as_their_factors(name):
    """And halves are multiplied as they always are."""
    a, b = numbers(5, 7), numbers(7, 3)
    halves = [x.astype(np.float16).astype(np.float64) for x in (a, b)]
    precision.use(name)
    try:
        error = off(product(on_device(a), on_device(b)), a @ b)
        assert off(product(*(on_device(x, "float16") for x in halves)), halves[0] @ halves[1]) <= LIMITS["float16"]
    finally:
        precision.use("float32")
    unit = 2.0**-8 if name == "bfloat16" else 2.0**-11
    assert unit / 100 < error < 2 * unit


def test_products_of_nothing():
    assert product(cupy().zeros((3, 0), np.float32), cupy().zeros((0, 2), np.float32)).get().tolist() == [[0, 0]] * 3
    assert product(cupy().zeros((0, 3), np.float32), cupy().zeros((3, 2), np.float32)).shape == (0, 2)


def test_what_a_product_cannot_take_is_refused_by_the_stand_in(stand_in):
    with pytest.raises(RuntimeError, match="NOT_SUPPORTED"):
        product(cupy().zeros((3, 2), np.float16), cupy().zeros((2, 3), np.float32))


# Linear layer and feed-forward part


def gradients_of_linear(x, weight, dy, dtype: str, places=((None, False),) * 3):
    arrays = on_device(x, dtype), on_device(weight, dtype), on_device(np.zeros(len(weight)), dtype)
    _, *saved = linear.linear_forward(*arrays)
    return linear.linear_backward(on_device(dy, dtype), *saved, (True, True, True), places)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_many_rows_added_to_what_is_there(dtype):
    """As many rows that each part of the bias's sums has several, and columns that are no whole pack."""
    x, weight, dy = numbers(1300, 5, dtype=dtype), numbers(37, 5, dtype=dtype), numbers(1300, 37, dtype=dtype)
    before = numbers(37, 5, dtype=dtype)
    place = on_device(before, dtype)
    dx, dweight, dbias = gradients_of_linear(x, weight, dy, dtype, [(None, False), (place, True), (None, False)])
    assert dweight is place
    for ours, exact in [(dx, dy @ weight), (dweight, before + dy.T @ x), (dbias, dy.sum(axis=0))]:
        assert ours.dtype == DTYPES[dtype]
        assert off(ours, exact) <= 2 * LIMITS[dtype]


def test_the_biass_gradient_has_the_same_bits_in_every_order_of_threads():
    dy, results = on_device(numbers(2500, 40)), []
    for name in ORDERS:
        with order(name):
            results.append(linear.column_sums(dy).get())
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()


@pytest.mark.parametrize("rows", [FEW, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_feed_forward_part_adds_its_gradients_to_what_is_there(dtype, rows):
    x, dy = numbers(rows, 6, dtype=dtype), numbers(rows, 6, dtype=dtype)
    parameters = [numbers(*shape, dtype=dtype) for shape in [(20, 6), (20,), (6, 20), (6,)]]
    before = [numbers(20, 6, dtype=dtype), numbers(6, 20, dtype=dtype)]
    needs = (True,) * 5
    y, *saved = mlp_page.forward(x, *parameters)
    exact = [y, *mlp_page.backward(dy, *saved, needs)]
    exact[2] += before[0]
    exact[4] += before[1]
    places = [(None, False)] * 5
    places[1], places[3] = ((on_device(b, dtype), True) for b in before)
    y, *saved = mlp.mlp_forward(on_device(x, dtype), *(on_device(p, dtype) for p in parameters))
    ours = [y, *mlp.mlp_backward(on_device(dy, dtype), *saved, needs, places)]
    assert ours[2] is places[1][0] and ours[4] is places[3][0]
    assert max(map(off, ours, exact)) <= 3 * LIMITS[dtype]  # what lies between the products is rounded too


def test_nothing_waits_for_the_device(stand_in):
    x, weight, bias = on_device(numbers(9, 6)), on_device(numbers(6, 6)), on_device(numbers(6))
    needs, places = (True,) * 5, [(None, False)] * 5
    with synchronizations() as notes:
        for rows in (x, x[:2]):
            y, *saved = mlp.mlp_forward(rows, weight, bias, weight, bias)
            mlp.mlp_backward(y, *saved, needs, places)
            y, *saved = linear.linear_forward(rows, weight, bias)
            linear.linear_backward(y, *saved, needs, places)
    assert notes == []


# Few rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_by_a_matrix(dtype):
    """Rows of W longer than a warp reads at once, and some that do not lie where packs can be loaded."""
    for rows, size, columns in [(1, 600, 11), (2, 33, 7), (3, 264, 16), (FEW, 97, 9), (5, 1, 1)]:
        x, weight, bias = numbers(rows, size, dtype=dtype), numbers(columns, size, dtype=dtype), numbers(columns)
        bias = bias.astype(DTYPES[dtype]).astype(np.float64)
        for b in (None, bias):
            y = matvec(on_device(x, dtype), on_device(weight, dtype), None if b is None else on_device(b, dtype))
            assert off(y, x @ weight.T + (0 if b is None else b)) <= LIMITS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("type", TYPES)
def test_few_and_many_rows_by_quantized_blocks(type, dtype):
    weight = quantize(random.normal(size=(11, 320)).astype(np.float32), type)
    exact = weight.dequantize(np.float64)
    blocks = on_device(weight.blocks)
    for rows in (1, FEW, FEW + 1):
        x, bias = numbers(rows, 320, dtype=dtype), numbers(11, dtype=dtype)
        y, *saved = quantized_linear.quantized_linear_forward(on_device(x, dtype), blocks, on_device(bias, dtype), type)
        assert off(y, x @ exact.T + bias) <= 2 * LIMITS[dtype]
        dy = numbers(rows, 11, dtype=dtype)
        dx, _, dbias = quantized_linear.quantized_linear_backward(on_device(dy, dtype), *saved, (True, False, True))
        assert max(off(dx, dy @ exact), off(dbias, dy.sum(axis=0))) <= 2 * LIMITS[dtype]


def test_few_rows_have_the_same_bits_in_every_order_of_threads():
    x, weight, results = on_device(numbers(3, 600)), on_device(numbers(20, 600)), []
    blocks = on_device(quantize(random.normal(size=(11, 320)).astype(np.float32), "Q4_0").blocks)
    for name in ORDERS:
        with order(name):
            y = quantized_linear.quantized_linear_forward(x[:, :320], blocks, None, "Q4_0")[0]
            results.append([matvec(x, weight).get(), y.get()])
    for other in results[1:]:
        assert all(map(np.array_equal, results[0], other))


# Bytes


def test_what_kernels_move_is_near_the_least_or_known_to_be_more():
    """On the sizes of GPT-2's smallest model; arrays are never touched."""
    N, C, V, F = 4096, 768, 50257, 3072
    table, x, logits, fc, bias, h = (np.empty(s, np.float32) for s in [(V, C), (N, C), (N, V), (F, C), F, (N, F)])
    ids, loss, count = np.empty(N, np.int64), np.empty((), np.float32), WorkCounter()

    def excess(ours, *call) -> float:
        return ours.bytes / count(*call).bytes

    within = [
        excess(moved.embedding_forward(N, C, 4), "forward", "embedding", (table, ids), (x,)),
        excess(moved.embedding_backward(N, V, C, 4), "backward", "embedding", (x,), (table,)),
        excess(moved.cross_entropy_forward(N, V, 4), "forward", "cross_entropy", (logits, ids), (loss,)),
        excess(moved.cross_entropy_backward(N, V, 4), "backward", "cross_entropy", (loss,), (logits,)),
        excess(moved.matvec(1, F, C, 4), "forward", "linear", (x[:1], fc), (h[:1],)),
        excess(moved.linear_forward(N, F, C, 4, bias=False), "forward", "linear", (x, fc), (h,)),
    ]
    assert all(0.99 < share < 1.1 for share in within), within
    beyond = excess(moved.linear_forward(N, F, C, 4), "forward", "linear", (x, fc, bias), (h,))
    assert 2 < beyond < 2.5  # the bias, without which y would be written once
    dx, dfc = np.empty((N, C), np.float32), np.empty((F, C), np.float32)
    beyond = excess(moved.linear_backward(N, F, C, 4), "backward", "linear", (h,), (dx, dfc, np.empty(F, np.float32)))
    assert 1.9 < beyond < 2.2  # dy is read three times
    y, proj = np.empty((N, C), np.float32), np.empty((C, F), np.float32)
    beyond = excess(moved.mlp_forward(N, C, F, 4), "forward", "mlp", (x, fc, bias, proj, x[0]), (y,))
    assert 6 < beyond < 6.5  # the hidden layer, four times
    chunk_count = len(chunks(N, V))
    inputs = ("forward", "linear_cross_entropy", (x, table, ids), (loss,))
    beyond = excess(moved.linear_cross_entropy_forward(N, V, C, 4, chunk_count), *inputs)
    assert 48 < beyond < 52  # the logits, five times, and the table's gradient, twice a chunk


# Faults: text of a file, what replaces it, and what shows it


def bias_error() -> float:
    dy = numbers(1300, 9)
    return off(linear.column_sums(on_device(dy)), dy.sum(axis=0))


def few_rows_error() -> float:
    x, weight = numbers(3, 200), numbers(5, 200)
    return off(matvec(on_device(x), on_device(weight)), x @ weight.T)


def blocks_error() -> float:
    """Of the gradient of x, which the dequantized matrix makes."""
    weight = quantize(random.normal(size=(11, 320)).astype(np.float32), "Q4_1")
    dy, saved = numbers(3, 11), (on_device(weight.blocks), "Q4_1", False)
    dx, *_ = quantized_linear.quantized_linear_backward(on_device(dy), *saved, (True, False, False))
    return off(dx, dy @ weight.dequantize(np.float64))


FAULTS = [
    ("linear.cu", "sums = sums + load(dy", "sums = load(dy", bias_error),
    ("matvec.cu", "warp_sum(sums[row])", "sums[row]", few_rows_error),
    ("quantized_linear.cu", "d * (q >> 4 & 15) + m", "d * (q >> 4 & 15)", blocks_error),
]


def exercise() -> None:
    """All kernels, on sizes that leave parts of packs, warps and blocks."""
    with emulated():
        linear.column_sums(on_device(numbers(300, 13)))
        for rows in (1, 2, 3, FEW):
            matvec(on_device(numbers(rows, 301)), on_device(numbers(11, 301)))
        for type in TYPES:
            blocks = on_device(quantize(random.normal(size=(3, 160)).astype(np.float32), type).blocks)
            quantized_linear.quantized_linear_forward(on_device(numbers(2, 160)), blocks, None, type)
            quantized_linear.dequantized(blocks, type, "float32")


@pytest.mark.parametrize(
    "sanitizer", ["thread", *(pytest.param(x, marks=pytest.mark.slow) for x in ("address", "memory"))]
)
def test_no_race_no_overrun_nothing_unwritten(sanitizer):
    assert sanitize.call(sanitizer, exercise) == []


@pytest.mark.parametrize("error", [bias_error, few_rows_error, blocks_error])
def test_no_fault_is_seen_where_none_is(error):
    assert error() <= LIMITS["float32"]


@pytest.mark.parametrize(("file", "old", "new", "error"), FAULTS)
def test_a_seeded_fault_is_seen(file, old, new, error, planted):
    with instead(file, planted(file, old, new)):
        assert error() > 1e-3
