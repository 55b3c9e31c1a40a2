"""The stand-in for CuPy beside CuPy itself, as far as that goes without a driver: names, arguments, refusals."""

import contextlib
import inspect

import ml_dtypes
import numpy as np
import pytest

from tinygrad_llm.devices import emulated
from tinygrad_llm.kernels.cuda.emulator import cublas, standin
from tinygrad_llm.kernels.cuda.emulator.cuda import Device, Event, RawModule, Stream

cupy = pytest.importorskip("cupy")
HOST = np.arange(1, 3, dtype=np.float32)

REFUSED = {
    "asarray": lambda cp, x: np.asarray(x),
    "array of arrays": lambda cp, x: np.array([x, x]),
    "ascontiguousarray": lambda cp, x: np.ascontiguousarray(x),
    "vectorize": lambda cp, x: np.vectorize(abs)(x),
    "a buffer": lambda cp, x: memoryview(x),
    "frombuffer": lambda cp, x: np.frombuffer(x),
    "a sequence of indices": lambda cp, x: range(x),
    "copyto from the host": lambda cp, x: np.copyto(x, HOST),
    "matmul with the host": lambda cp, x: x @ HOST,
    "matmul from the host": lambda cp, x: cp.matmul(HOST, x),
    "fill from the host": lambda cp, x: x.fill(HOST),
    "set a list": lambda cp, x: x.set([1, 2]),
    "set another dtype": lambda cp, x: x.set(HOST.astype(np.float64)),
    "set another shape": lambda cp, x: x.set(HOST[:1]),
    "an unknown option of a ufunc": lambda cp, x: np.add(x, x, bogus=1),
    "an option of NumPy's sum": lambda cp, x: x.sum(axis=0, initial=1),
    "an option of NumPy's max": lambda cp, x: np.max(x, axis=0, initial=0),
    "an option of NumPy's mean": lambda cp, x: x.mean(where=x),
    "ones like it": lambda cp, x: np.ones(2, like=x),
    "full like it": lambda cp, x: np.full(2, 1.0, like=x),
    "a dictionary's key": lambda cp, x: {x: 1},
    "a function that CuPy lacks": lambda cp, x: np.block([x, x]),
    "a name that CuPy lacks": lambda cp, x: cp.errstate,
}
TAKEN = {
    "shape": lambda cp, x: np.shape(x),
    "reshape": lambda cp, x: x.reshape(1, -1) is not x and x.reshape((2, 1)),
    "transpose": lambda cp, x: np.transpose(x.reshape(1, 2), [1, 0]),
    "broadcast_to": lambda cp, x: np.broadcast_to(x, [3, 2]),
    "moveaxis": lambda cp, x: np.moveaxis(x.reshape(1, 2), -1, 0),
    "split": lambda cp, x: np.split(x, [1], axis=0),
    "empty like it": lambda cp, x: np.empty((2,), np.float32, like=x),
    "zeros like it": lambda cp, x: np.zeros((2,), np.float32, like=x),
    "arange like it": lambda cp, x: np.arange(3, dtype=np.uint64, like=x),
    "tri like it": lambda cp, x: np.tri(2, 3, dtype=bool, like=x),
    "ones_like": lambda cp, x: np.ones_like(x, shape=3),
    "full_like": lambda cp, x: np.full_like(x, np.nan, shape=(2, 2)),
    "sum": lambda cp, x: x.sum(axis=(), keepdims=True) is not x and np.sum(x, axis=None, keepdims=False),
    "max": lambda cp, x: np.max(x, axis=0, keepdims=True),
    "argmax": lambda cp, x: np.argmax(x, axis=0, keepdims=True),
    "var": lambda cp, x: np.var(x, axis=0, ddof=1),
    "log": lambda cp, x: np.log(x, dtype=np.float32),
    "add.at": lambda cp, x: np.add.at(x, 0, 1),
    "astype": lambda cp, x: x.astype(np.float16, copy=False),
    "copy": lambda cp, x: x.copy(order="C"),
    "view": lambda cp, x: x.view(np.int8),
    "where": lambda cp, x: np.where(x > 0, x, -np.inf),
    "a number": lambda cp, x: np.float32(2) * x + 1,
    "ix_": lambda cp, x: np.ix_(x),
    "may_share_memory": lambda cp, x: np.may_share_memory(x, x),
    "float": lambda cp, x: float(x[0]),
}


@pytest.fixture(autouse=True)
def on_the_emulator():
    with emulated():
        yield


@pytest.fixture
def real():
    """An array of CuPy's: without a driver one that has an address and no memory."""
    if cupy.cuda.is_available():
        return cupy.asarray(HOST)
    memory = cupy.cuda.UnownedMemory(2**20, HOST.nbytes, None, 0)
    return cupy.ndarray(HOST.shape, HOST.dtype, memptr=cupy.cuda.MemoryPointer(memory, 0))


@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse(name, real):
    for module, x in ((cupy, real), (standin, standin.asarray(HOST))):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            REFUSED[name](module, x)


@pytest.mark.parametrize("name", TAKEN)
def test_both_take(name, real):
    TAKEN[name](standin, standin.asarray(HOST))
    with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # as far as it comes without a driver
        TAKEN[name](cupy, real)


def test_the_words_of_a_hidden_conversion_are_cupys(real):
    words = []
    for x in (real, standin.asarray(HOST)):
        with pytest.raises(TypeError) as caught:
            np.asarray(x)
        words.append(str(caught.value))
    assert words[0] == words[1]


@pytest.mark.parametrize("meeting", [np.add, np.maximum, np.where, np.concatenate, "+", "[]", "==", "+=", "[]="])
def test_arrays_of_the_host_do_not_meet_those_of_a_device(meeting):
    x = standin.asarray(HOST)
    with pytest.raises((TypeError, ValueError), match=r"Unsupported type|non-scalar"):
        match meeting:
            case "+":
                HOST + x
            case "+=":
                x += HOST
            case "==":
                x == HOST  # noqa: B015
            case "[]":
                x[np.array([0])]
            case "[]=":
                x[...] = HOST
            case np.where:
                np.where(x > 0, x, HOST)
            case np.concatenate:
                np.concatenate([x, HOST])
            case _:
                meeting(x, HOST)


def test_it_has_no_name_that_cupy_lacks(real):
    for ours, theirs in ((standin.ndarray, cupy.ndarray), (Device, cupy.cuda.Device), (RawModule, cupy.RawModule),
                         (Event, cupy.cuda.Event), (Stream, cupy.cuda.Stream)):  # fmt: skip
        names = {name for name in vars(ours) if not name.startswith("_")} - {"host", "time", "null", "ptr"}
        assert names <= set(dir(theirs)), ours
    public = {
        name
        for name, value in vars(standin).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(standin.__package__)
    }
    assert {"ndarray", "RawModule", "asarray"} < public
    assert public - {"erfc", "synchronizations"} <= set(dir(cupy))
    assert set(cublas.DATA_TYPES.items()) <= {(name, getattr(cupy.cuda.runtime, name)) for name in cublas.DATA_TYPES}
    assert callable(cupy.cuda.device.get_cublas_handle) and callable(cupy.cuda.get_elapsed_time)


def test_methods_have_the_arguments_of_cupys_functions():
    for name in standin.FUNCTIONS:
        assert hasattr(cupy, name) and hasattr(cupy.ndarray, name)
        assert isinstance(inspect.signature(getattr(cupy, name)), inspect.Signature)


def test_cupy_computes_in_bfloat16_whatever_the_pages_do_in_it():
    used = """absolute add exp greater log log1p maximum minimum multiply negative power sign sqrt subtract tanh
        true_divide"""
    for name in used.split():
        kinds = "".join(getattr(cupy, name).types)
        assert np.dtype(ml_dtypes.bfloat16).char in kinds, name


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_keep_their_dtype_and_sum_in_float32(dtype):
    x = standin.full((4096,), 0.1, dtype)
    assert {y.dtype for y in (x * 2, 0.5 + x, np.where(x > 0, x, -np.inf), x.mean(), x @ x)} == {np.dtype(dtype)}
    exact = 4096 * float(dtype(0.1))
    assert float(x.sum()) == float(dtype(exact))
    assert x.sum(dtype=np.float32).dtype == np.float32


def test_results_are_numpys_and_stay_on_the_device():
    x = standin.asarray(np.arange(6.0).reshape(2, 3))
    assert type(x.sum()) is type(x[0, 0]) is type(x.T) is type(np.argmax(x)) is standin.ndarray
    assert x.sum().shape == ()
    assert x.shape == (2, 3) and len(x) == 2 and [row.shape for row in x] == [(3,), (3,)]
    y = x.reshape(3, 2)
    y[0, 0] = 7
    assert x.item(0) == 7  # a view, as NumPy's
    z = x
    z += 1
    assert z is x and x.item(0) == 8


def test_what_waits_for_the_device_is_noted_with_its_line():
    x = standin.asarray(np.arange(3.0))
    with standin.synchronizations() as notes:
        y = x * 2 + x.sum()
        y[y > 3] = 0
        assert notes == []
        assert bool((y >= 0).all())
        y.get()
        y[y > 3]
    assert [note.partition(" at ")[0] for note in notes] == ["bool(x)", "x.get()", "x[mask]"]
    assert all(__file__ in note for note in notes)
    assert len(notes) == 3 and float(y[0]) == 3.0 and len(notes) == 3


def test_kernels_are_launched_with_cupys_own_call():
    code = """
    extern "C" __global__ void scale(const float* x, float* y, float factor, int n) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n) y[i] = factor * x[i];
    }"""
    x = standin.asarray(np.arange(33, dtype=np.float32))
    y = standin.empty_like(x)
    scale = standin.RawModule(code=code, options=("-std=c++17",)).get_function("scale")
    scale((2,), (32,), (x, y, np.float32(3), np.int32(33)))
    np.testing.assert_array_equal(y.get(), 3 * x.get())
    with pytest.raises(TypeError, match="Unsupported type"):
        scale((2,), (32,), (x.get(), y, np.float32(3), np.int32(33)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_memory_that_nobody_has_written_is_no_number(dtype):
    x = standin.zeros((2, 3), dtype)
    for y in (standin.empty((2, 3), dtype), np.empty_like(x), np.empty((2, 3), dtype, like=x)):
        assert np.isnan(y).all().item()


def test_the_host_does_not_see_numpys_warnings():
    with np.errstate(all="raise"):
        assert np.isneginf(np.log(standin.zeros(1))).item()
