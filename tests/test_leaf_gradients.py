"""The gradient of a leaf: an array of its own, added to, where the optimizer wants it."""

import numpy as np
import pytest
from test_autograd import leaf

from tinygrad_llm import Tensor, kernels, ops, watch


def test_gradients_accumulate_until_they_are_cleared():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]
    x.grad = None
    x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_gradients_are_arrays_of_ones_own():
    """Gradients that pass through unchanged are not shared between leaves, nor with the caller's array."""
    x, y, gradient = leaf(1.0), leaf(2.0), np.array([1.0])
    (x + y).backward(gradient)
    x.grad += 5
    assert y.grad.tolist() == gradient.tolist() == [1.0]


def test_the_gradient_stands_in_the_buffer_it_was_given():
    x, flat = leaf(1.0, 2.0), np.full(5, 9.0)
    x.grad_buffer = flat[1:3]
    (x * x).sum().backward()
    assert flat.tolist() == [9, 2, 4, 9, 9]
    x.sum().backward()
    assert flat.tolist() == [9, 3, 5, 9, 9]
    assert np.shares_memory(x.grad, flat)


def test_a_kernel_writes_a_leafs_gradient_where_the_optimizer_wants_it():
    """Once into the buffer, then onto it; where the gradient stands elsewhere, not at all."""
    pytest.importorskip("numba")
    x, weight = np.ones((2, 3)), Tensor(np.ones((4, 3)), requires_grad=True)
    weight.grad_buffer = np.full((4, 3), np.nan)
    given = []
    with kernels.use("numba"), watch(lambda phase, name, inputs, outputs, seconds: given.append(outputs)):
        for times in (1, 2):
            ops.linear(x, weight).sum().backward()
            assert weight.grad is weight.grad_buffer is given[-1][1]
            np.testing.assert_array_equal(weight.grad, np.full((4, 3), 2.0 * times))
        own = weight.grad = np.zeros((4, 3))
        ops.linear(x, weight).sum().backward()
        assert weight.grad is own
        np.testing.assert_array_equal(own, np.full((4, 3), 2.0))
        weight.grad = None
        ops.linear(weight, weight).sum().backward()  # the same leaf twice: only one of two could be written there
        np.testing.assert_array_equal(weight.grad, np.full((4, 3), 8.0))


def test_a_leaf_takes_the_array_that_its_kernel_made_unless_the_graph_is_to_stay():
    pytest.importorskip("numba")
    h, weight = Tensor(np.ones((4, 3), np.float32)), Tensor(np.ones((5, 3), np.float32), requires_grad=True)
    given = []
    with kernels.use("numba"), watch(lambda phase, name, inputs, outputs, seconds: given.append(outputs)):
        loss = ops.linear_cross_entropy(h, weight, np.arange(4))  # keeps its gradients for the backward
        loss.backward(retain_graph=True)
        first = weight.grad.copy()
        assert not np.shares_memory(weight.grad, given[-1][1])
        for times in (2, 3):
            loss.backward(retain_graph=True)
            np.testing.assert_allclose(weight.grad, times * first, rtol=1e-6)
        weight.grad = None
        loss.backward()
        assert weight.grad is given[-1][1]
        np.testing.assert_array_equal(weight.grad, first)


def test_backward_of_a_leaf():
    x = leaf(1.0)
    x.backward()
    assert x.grad.tolist() == [1.0]


def test_a_gradient_comes_back_in_the_dtype_of_its_tensor():
    x, y = leaf(1.0, dtype=np.float32), leaf(2.0)
    (x * y).sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)
