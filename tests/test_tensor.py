"""Tensor means what torch.Tensor means."""

import itertools
import operator

import numpy as np
import pytest
import torch

from tinygrad_llm import Tensor, ops

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
OPERANDS = {
    "float32": np.array([1.0, 2.0, 3.0], np.float32),
    "float64": np.array([1.0, 2.0, 3.0]),
    "int64": np.array([1, 2, 3]),
    "bool": np.array([True, True, True]),
    "float32 number": np.array(2.0, np.float32),
    "float64 number": np.array(2.0),
    "int64 number": np.array(2),
    "Python float": 2.0,
    "Python int": 2,
}
DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.int64: "int64", torch.bool: "bool"}


PAIRS = [pair for pair in itertools.product(OPERANDS, repeat=2) if not all("Python" in operand for operand in pair)]


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_promotion(left, right):
    """The dtype and the values of every pair of operands are torch's."""
    x, y = OPERANDS[left], OPERANDS[right]
    ours = [Tensor(v) if isinstance(v, np.ndarray) else v for v in (x, y)]
    theirs = [torch.tensor(v) if isinstance(v, np.ndarray) else v for v in (x, y)]
    condition = np.array([True, False, True])
    results = {"where": (ops.where(condition, *ours), torch.where(torch.tensor(condition), *theirs))}
    if "Python" not in left + right:  # torch.maximum takes no numbers
        results["maximum"] = ops.maximum(*ours), torch.maximum(*theirs)
    for function in OPERATORS:
        if "bool" not in (left, right) or function not in (operator.sub, operator.pow):  # torch refuses some of these
            results[function.__name__] = function(*ours), function(*theirs)
    for name, (result, expected) in results.items():
        assert str(result.dtype) == DTYPES[expected.dtype], name
        np.testing.assert_allclose(result.data, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("data", [1, 1.5, True, [1, 2], [1.5, 2], [True], [[0.5]], [], np.float32(2), np.float64(2)])
def test_dtype_of_python_numbers_and_arrays(data):
    expected = torch.as_tensor(data) if isinstance(data, np.generic) else torch.tensor(data)
    tensor = Tensor(data)
    assert str(tensor.dtype) == DTYPES[expected.dtype]
    assert tensor.shape == tuple(expected.shape)
    assert tensor.tolist() == expected.tolist()


def test_an_array_is_taken_as_it_is():
    array = np.zeros((3, 7))
    assert Tensor(array).data is array
    assert Tensor(Tensor(array)).data is array
    assert Tensor(array, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("function", [*OPERATORS, operator.matmul])
def test_arrays_on_the_left(function):
    """`array * tensor` is one operation on the tape, not an array of tensors."""
    left, right = np.array([[1.0, 2.0], [3.0, 4.0]]), Tensor(np.array([[2.0, 1.0], [1.0, 2.0]]), requires_grad=True)
    y = function(left, right)
    assert isinstance(y, Tensor) and y.requires_grad
    np.testing.assert_array_equal(y.data, function(left, right.data))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons(name):
    compare = getattr(operator, name)
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    tensor = Tensor(x, requires_grad=True)
    for result in (compare(tensor, Tensor(y)), compare(tensor, y), compare(tensor, 2), compare(x, Tensor(y))):
        assert isinstance(result, Tensor) and result.dtype == bool and not result.requires_grad
        np.testing.assert_array_equal(result.data, compare(x, y))


def test_what_it_is():
    x = Tensor(np.arange(21.0).reshape(3, 7))
    assert (x.shape, x.size(), x.size(-1), x.ndim, x.dim(), x.numel(), len(x)) == ((3, 7), (3, 7), 7, 2, 2, 21, 3)
    assert x.numpy() is x.data
    assert x[1, 2].item() == float(x[1, 2]) == 9.0
    assert int(x[0, 3]) == 3
    assert [row.tolist() for row in x] == x.tolist()
    assert np.asarray(x) is not None and np.array_equal(np.asarray(x), x.data)
    assert len({x, x.detach()}) == 2  # hashed by identity


def test_truth_of_one_element_only():
    assert Tensor(1.0) and not Tensor(0)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(Tensor([1.0, 2.0]))


def test_repr():
    assert repr(Tensor([1.5, 2.0])) == "Tensor([1.5, 2. ], dtype=float32)"
    x = Tensor([1.5], requires_grad=True)
    assert repr(x) == "Tensor([1.5], dtype=float32, requires_grad=True)"
    assert repr(x * 2) == "Tensor([3.], dtype=float32, made by mul)"


def test_casts():
    x = Tensor([1.5, -2.5], requires_grad=True)
    assert x.float() is x
    assert x.double().dtype == np.float64 and x.double().requires_grad
    assert x.long().tolist() == [1, -2] and not x.long().requires_grad
    clone = x.clone()
    clone.data[0] = 7
    assert x.data[0] == 1.5 and clone.requires_grad
    assert x.detach().data is x.data and not x.detach().requires_grad


def test_only_floating_tensors_require_gradients():
    with pytest.raises(RuntimeError, match="only floating tensors have gradients, and this one is int64"):
        Tensor([1, 2], requires_grad=True)
    assert not Tensor([1.0], requires_grad=True).requires_grad_(False).requires_grad
