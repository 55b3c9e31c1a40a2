"""Which functions compute an operation, and what a user's kernel file may and must have."""

import subprocess
import sys

import numpy as np
import pytest

from tinygrad_llm import Tensor, kernels, ops
from tinygrad_llm.errors import UserError

TWICE = """
import numpy as np

def exp_forward(x):
    y = 2 * np.exp(x)
    return y, y

def exp_backward(dy, y):
    return dy * y
"""


@pytest.fixture
def twice(tmp_path):
    """A kernel that gives itself away: twice the exponential."""
    path = tmp_path / "exp.py"
    path.write_text(TWICE)
    return path


def test_a_users_file_is_used_forward_and_backward(twice):
    x = Tensor(np.zeros(3), requires_grad=True)
    with kernels.use(str(twice)):
        y = x.exp()
        y.sum().backward()
        assert x.sqrt().data.tolist() == [0, 0, 0]  # an operation that it does not have
    assert y.data.tolist() == x.grad.tolist() == [2, 2, 2]


def test_a_users_folder_is_used(twice):
    with kernels.use(str(twice.parent)):
        assert Tensor(0.0).exp().item() == 2
    assert kernels.KernelSet(str(twice.parent)).operations() == ["exp"]


def test_the_first_set_asked_for_has_the_word(twice, tmp_path):
    other = tmp_path / "other" / "exp.py"
    other.parent.mkdir()
    other.write_text(TWICE.replace("2 *", "3 *"))
    with kernels.use(str(other), str(twice)):
        assert Tensor(0.0).exp().item() == 3
        assert kernels.active() == (str(other), str(twice), "numpy")


def test_only_floating_arrays_of_numpy_go_to_a_kernel(twice):
    with kernels.use(str(twice)):
        assert ops.exp(Tensor(np.zeros(1, np.float16))).data.tolist() == [1]
        assert ops.exp(Tensor(np.zeros(1, np.int64))).data.tolist() == [1]
        assert ops.exp(Tensor(np.zeros(1, np.float32))).data.tolist() == [2]


def test_the_first_floating_input_decides(tmp_path):
    (tmp_path / "where.py").write_text(
        "def where_forward(condition, x, y):\n    return x + y, condition, x, y\n"
        "def where_backward(dz, condition, x, y, needs):\n    return None, dz, dz\n"
    )
    with kernels.use(str(tmp_path)):
        assert ops.where(Tensor([True]), Tensor([1.0]), Tensor([2.0])).tolist() == [3.0]


def test_use_restores_what_was_before(twice):
    before = kernels.active()
    with kernels.use("numpy"):
        assert kernels.active() == ("numpy",)
        with pytest.raises(ZeroDivisionError), kernels.use(str(twice)):
            assert Tensor(0.0).exp().item() == 2
            raise ZeroDivisionError
        assert Tensor(0.0).exp().item() == 1
    assert kernels.active() == before


def test_an_unknown_set_is_named_with_those_there_are():
    before = kernels.active()
    with pytest.raises(UserError, match=r"no kernel set 'cobol': give one of numpy"):
        kernels.use("cobol")
    assert kernels.active() == before


def test_an_empty_folder_is_no_kernel_set(tmp_path):
    with pytest.raises(UserError, match="no kernel set"):
        kernels.use(str(tmp_path))


def test_a_missing_function_is_named(twice):
    twice.write_text(TWICE.replace("exp_backward", "backward"))
    with kernels.use(str(twice)), pytest.raises(UserError, match=r"exp\.py has no exp_backward"):
        Tensor(0.0).exp()


def test_other_arguments_are_shown_beside_the_pages(twice):
    twice.write_text(TWICE.replace("exp_forward(x)", "exp_forward(x, base)"))
    with kernels.use(str(twice)), pytest.raises(UserError, match=r"exp_forward\(x, base\) must take \(x\)"):
        Tensor(0.0).exp()


@pytest.mark.parametrize("source", ["def exp_forward(x:", "import no_such_module", "1 / 0"])
def test_a_file_that_does_not_load_is_named(twice, source):
    twice.write_text(source)
    with pytest.raises(UserError, match=r"the kernel .*exp\.py does not load: \w+Error"):
        kernels.use(str(twice))


def test_what_a_kernel_saves_for_its_backward_is_its_own_affair(tmp_path):
    kernel = tmp_path / "mul.py"
    kernel.write_text(
        "def mul_forward(x, y):\n    return x * y, (x, y)\n"
        "def mul_backward(dz, factors, needs):\n    return dz * factors[1], dz * factors[0]\n"
    )
    x, y = (Tensor(np.array(numbers), requires_grad=True) for numbers in ([1.0, 2.0], [3.0, 4.0]))
    with kernels.use(str(kernel)):
        (x * y).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([3, 4], [1, 2])
    kernel.write_text(kernel.read_text().replace("dz, factors, needs", "factors, dz, needs"))
    with kernels.use(str(kernel)), pytest.raises(UserError, match=r"mul_backward\(factors, dz, needs\) must take"):
        x * y


WITHOUT_NUMBA = """
import importlib.util, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "numba" else find_spec(name, package)

from tinygrad_llm import kernels
from tinygrad_llm.cli import main

short = ["--max_iters", "3", "--eval_interval", "3", "--eval_iters", "1", "--out", "run"]
status = main(["train", "--preset", "tiny", *short])
print(kernels.active(), status, "numba" in sys.modules)
"""


def test_without_numba_the_pages_train(tmp_path):
    command = [sys.executable, "-c", WITHOUT_NUMBA]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "('numpy',) 0 False", result.stderr
