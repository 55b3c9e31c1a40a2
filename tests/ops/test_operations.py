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

from tinygrad_llm import kernels, ledger
from tinygrad_llm.devices import emulated
from tinygrad_llm.kernels.cuda.emulator import order
from tinygrad_llm.kernels.cuda.launch import FOLDER, instead
from tinygrad_llm.reference import ORACLES
from tinygrad_llm.suites import differences
from tinygrad_llm.verification import compare, operations, pairs, run

OPERATIONS = operations()
RECORDED = ledger.read()
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
    """And is no worse than the ledger has it."""
    comparison = compare(name, kernel_set, dtype)
    assert comparison.failures == []
    row = ledger.row(comparison)
    assert ledger.worse(row, RECORDED.get(row.key)) == ""


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
    comparison = differences.compare(name, kernel_set)
    assert comparison.failures == []
    row = ledger.row(comparison)
    assert row.cases > 0
    assert ledger.worse(row, RECORDED.get(row.key)) == ""


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


def test_a_jump_is_no_noise(tmp_path):
    """At ties the gradient of amax jumps when the inputs move, which excuses no error of 5e-5."""
    source = inspect.getsource(inspect.getmodule(OPERATIONS["amax"].forward))
    share = " / largest.sum("
    assert source.count(share) == 1
    (tmp_path / "amax.py").write_text(source.replace(share, f" * 1.00005{share}"))
    failures = compare("amax", str(tmp_path / "amax.py"), "float32").failures
    assert any("case 9 " in failure for failure in failures)


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
