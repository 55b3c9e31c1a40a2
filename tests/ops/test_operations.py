"""Every operation, by every kernel: against PyTorch, by finite differences, and with a seeded fault.

CUDA kernels run on the emulator, or on a GPU where there is one.
"""

import inspect
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from faults import CUDA_FAULTS, FAULTS, planted, source_of

from tinygrad_llm import kernels
from tinygrad_llm.devices import emulated
from tinygrad_llm.kernels.cuda.emulator import order
from tinygrad_llm.kernels.cuda.launch import FOLDER, instead
from tinygrad_llm.reference import ORACLES
from tinygrad_llm.verification import compare, input_names, operations, output_gradient, pairs, run

OPERATIONS = operations()
SETS = [kernels.KernelSet(name) for name in kernels.builtin_sets()]
PAIRS = [("numpy", name) for name in OPERATIONS]
PAIRS += [(kernel_set.name, name) for kernel_set in SETS for name in kernel_set.operations() if name in OPERATIONS]
ON_HOST = [pair for pair in PAIRS if pair[0] != "cuda"]
ON_DEVICE = [name for kernel_set, name in PAIRS if kernel_set == "cuda"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean'"),  # torch's advice on kl_div
    pytest.mark.filterwarnings("ignore:.*the kernel does not take"),
]


@pytest.mark.parametrize(("name", "kernel_set", "dtype"), pairs())
def test_agrees_with_pytorch(name, kernel_set, dtype):
    comparison = compare(name, kernel_set, dtype)
    assert comparison.failures == []
    assert comparison.cases > 0


@pytest.mark.parametrize("threads", ["reverse", "random"])
@pytest.mark.parametrize("name", ON_DEVICE)
def test_the_order_of_threads_does_not_matter(name, threads):
    with order(threads):
        assert compare(name, "cuda", "float32").failures == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_page_computes_on_a_device(name):
    """The stand-in for CuPy refuses what CuPy refuses; what it computes is what NumPy does."""
    with emulated(), kernels.use("numpy"):
        for case in ORACLES[name].cases:
            inputs, options = case.make(0)
            expected = run(OPERATIONS[name], inputs, options, "float64")
            on_device = run(OPERATIONS[name], inputs, options, "float64", device="cuda")
            assert on_device.keys() == expected.keys()
            for key, array in expected.items():
                np.testing.assert_allclose(on_device[key], array, rtol=1e-12, atol=1e-12, err_msg=key)


@pytest.mark.parametrize(("kernel_set", "name"), ON_HOST)
def test_agrees_with_finite_differences(name, kernel_set):
    """Along a random direction in every floating input; cases with a kink or an infinity at hand are left out."""
    checked = 0
    with kernels.use(kernel_set):
        for case in ORACLES[name].cases:
            inputs, options = case.make(seed=1)
            results = run(OPERATIONS[name], inputs, options, "float64")
            if results["y"].dtype != np.float64 or options.get("padding_idx") is not None:
                continue  # steps of rounding have no slope; at the padding the gradient stops by definition
            for position, key in enumerate(input_names(OPERATIONS[name], len(inputs))):
                if f"d{key}" in results:
                    before, after = one_sided_slopes(OPERATIONS[name], inputs, options, position)
                    if np.isclose(before, after, rtol=1e-2, atol=1e-4):
                        terms = results[f"d{key}"] * direction(inputs[position])
                        assert (before + after) / 2 == pytest.approx(terms.sum(), abs=1e-6 * np.abs(terms).sum())
                        checked += 1
    assert checked > 0


@pytest.mark.parametrize(("kernel_set", "name"), FAULTS)
def test_a_seeded_fault_is_seen(name, kernel_set, tmp_path):
    """The page or kernel with the fault in its backward is used as a user's own kernel."""
    comparison = compare(name, str(planted(name, kernel_set, tmp_path)), "float64")
    assert comparison.failures
    assert not any(": y is" in failure for failure in comparison.failures)


@pytest.mark.parametrize("name", CUDA_FAULTS)
def test_a_seeded_fault_of_a_cuda_kernel_is_seen(name, tmp_path):
    """All files are copied, since those with kernels include others, and the copies are compiled in their place."""
    file, old, new = CUDA_FAULTS[name]
    for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh"), *FOLDER.glob("*.py")]:
        shutil.copy(path, tmp_path)
    copy = tmp_path / file
    copy.write_text(copy.read_text().replace(old, new))
    if copy.suffix == ".py":
        copy.write_text(f"{copy.read_text()}\nfrom tinygrad_llm.kernels.cuda import takes\n")
    with ExitStack() as stack:
        for path in FOLDER.glob("*.cu"):
            stack.enter_context(instead(path, tmp_path / path.name))
        comparison = compare(name, str(copy) if copy.suffix == ".py" else "cuda", "float32")
    assert comparison.failures
    assert not any(": y is" in failure for failure in comparison.failures)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_page_serves_as_a_users_kernel(name):
    assert compare(name, inspect.getfile(OPERATIONS[name].forward), "float64").failures == []


def test_every_page_has_an_oracle_with_cases():
    assert set(ORACLES) == set(OPERATIONS)
    assert all(oracle.cases for oracle in ORACLES.values())


def test_every_backward_has_one_fault():
    assert set(FAULTS) == set(ON_HOST)
    assert set(CUDA_FAULTS) == set(ON_DEVICE)
    for name, (file, old, _) in CUDA_FAULTS.items():
        assert (FOLDER / file).read_text().count(old) == 1, name
    for kernel_set, name in FAULTS:
        assert source_of(name, kernel_set)[1].count(FAULTS[kernel_set, name][0]) == 1, (kernel_set, name)


def test_every_page_is_named_after_its_operation():
    for name, operation in OPERATIONS.items():
        file = Path(inspect.getfile(operation.forward))
        assert (file.stem, operation.backward.__name__) == (name, f"{name}_backward")
        assert operation.__doc__


def direction(x: np.ndarray) -> np.ndarray:
    return np.random.default_rng(11).normal(size=x.shape)


def one_sided_slopes(operation, inputs: list, options: dict, position: int, h: float = 1e-5) -> tuple[float, float]:
    """How fast sum(y w) grows along the direction, just before the input and just after it."""
    x = inputs[position]

    def y(shift):
        return operation(*inputs[:position], x + shift * direction(x), *inputs[position + 1 :], **options).data

    y0, y1, y2 = y(-h), y(0), y(h)
    w = output_gradient(np.shape(y1))
    with np.errstate(invalid="ignore"):  # the difference of infinities is no number, which is close to nothing
        return ((y1 - y0) / h * w).sum(), ((y2 - y1) / h * w).sum()
