"""The tape and the walk back over it."""

import gc
import weakref

import numpy as np
import pytest
import torch

from tinygrad_llm import Function, Tensor, autograd, kernels, no_grad, ops, watch
from tinygrad_llm.activations import arrays
from tinygrad_llm.autograd import record


def leaf(*values, dtype=np.float64) -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


class Square(Function):
    """An operation as a reader would write it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        return dy * 2 * x


@pytest.mark.parametrize("walk", [True, False])
def test_a_chain_of_a_hundred_thousand(walk):
    """Neither the walk nor forgetting the chain, walked or not, recurses."""
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = -y
    if walk:
        y.backward()
        assert x.grad.tolist() == [1.0]
    alive = weakref.ref(y)
    del y
    assert alive() is None


def test_a_diamond_visits_each_operation_once():
    """2^40 paths from x to y, forty operations."""
    x, visits = leaf(1.0), []
    y = x
    for _ in range(40):
        y = y + y
    with watch(lambda phase, *_: visits.append(phase)):
        y.backward()
    assert x.grad.tolist() == [2.0**40]
    assert visits == ["backward"] * 40


def test_paths_of_different_length_are_added_before_going_on():
    x, t = leaf(0.3, -0.7), torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    for v in (x, t):
        a = v.exp()
        b = a * v
        c = (a + b).tanh() * a
        (c + b * c).sum().backward()
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-12)


def test_a_second_walk_says_so_and_touches_nothing():
    x, z = leaf(2.0), leaf(3.0)
    y = x.exp()
    y.backward()
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match=r"already run through 'exp'.*retain_graph=True"):
        (y * z).backward()
    assert x.grad.tolist() == before.tolist()
    assert z.grad is None


def test_retain_graph_allows_a_second_walk():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8.0]
    with pytest.raises(RuntimeError, match="already run"):
        y.backward()


def test_no_grad_as_a_block_and_as_a_decorator():
    x = leaf(1.0)

    @no_grad()
    def double(x):
        return x * 2

    with no_grad():
        with no_grad():
            pass
        assert not (x * 2).requires_grad
        assert Square.apply(x).node is None
    assert not double(x).requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (x * 2).requires_grad


def test_nothing_is_recorded_where_nothing_wants_a_gradient():
    assert (Tensor([1.0]) * 2).node is None
    assert ops.cast(leaf(1.5), np.int64).node is None
    with pytest.raises(RuntimeError, match="needs a tensor that requires a gradient"):
        (Tensor([1.0]) * 2).backward()


def test_backward_of_many_numbers_needs_a_gradient_of_their_shape():
    y = leaf(1.0, 2.0) * 2
    with pytest.raises(RuntimeError, match=r"of shape \(2,\) needs `gradient`"):
        y.backward()
    with pytest.raises(RuntimeError, match=r"gradient has shape \(3,\), the tensor \(2,\)"):
        y.backward(np.ones(3))


def test_a_large_result_of_a_norm_is_made_again_and_not_kept(monkeypatch):
    random = np.random.default_rng(0)
    x, w, b, weight = (Tensor(random.normal(size=s), requires_grad=True) for s in ((7, 5), (5,), (5,), (3, 5)))
    gradients = []
    for large in (2**20, 1):
        monkeypatch.setattr(autograd, "LARGE", large)
        normed = ops.layernorm(x, w, b)
        y = ops.linear(normed, weight).exp().sum()
        kept = any(np.shares_memory(array, normed.data) for array in arrays(y.node))
        assert kept == (large > 1)
        y.backward(retain_graph=True)
        y.backward()
        gradients.append([tensor.grad.tobytes() for tensor in (x, w, b, weight)])
        for tensor in (x, w, b, weight):
            tensor.grad = None
    assert gradients[0] == gradients[1]


@pytest.fixture
def no_garbage_collection():
    """Only NumPy's functions run, since compiling kernels makes cycles of its own."""
    with kernels.use("numpy"):
        gc.collect()
        gc.disable()
        yield
        gc.enable()


@pytest.mark.parametrize("walk", [True, False])
def test_the_graph_has_no_cycles(walk, no_garbage_collection):
    """Tensors, operations and what they saved die with the last name, not at the next garbage collection."""
    x = leaf(1.0, 2.0)
    y = Square.apply(ops.layernorm((x * x).exp() @ Tensor(np.eye(2)), None, None)).max(0)[0]
    if walk:
        y.backward()
    tensors = [weakref.ref(x), weakref.ref(y), weakref.ref(x.data), weakref.ref(y.data)]
    del x, y
    assert [tensor() for tensor in tensors] == [None] * 4
    assert gc.collect() == 0


class Tracked(np.ndarray):
    """An array that can be watched dying."""


def test_what_was_saved_is_freed_during_the_walk():
    """When an operation's backward runs, what later operations saved is gone already."""
    alive, seen = [], []
    x = leaf(1.0)
    y = x
    for _ in range(5):
        saved = np.ones(1).view(Tracked)
        alive.append(weakref.ref(saved))

        def backward(dy, saved=saved):
            seen.append(sum(ref() is not None for ref in alive))
            return dy * np.asarray(saved)

        y = record("tracked", (y,), y.data + 1, backward)
    del saved, backward
    y.backward()
    assert seen == [5, 4, 3, 2, 1]
    assert not any(ref() is not None for ref in alive)


def test_watch_sees_every_forward_and_backward():
    calls = []
    x = leaf(1.0, 2.0)
    with watch(lambda *call: calls.append(call)):
        (x * 3).exp().sum().backward()
    x.exp()
    assert [call[:2] for call in calls] == [
        ("forward", "mul"), ("forward", "exp"), ("forward", "sum"),
        ("backward", "sum"), ("backward", "exp"), ("backward", "mul"),
    ]  # fmt: skip
    inputs, outputs = calls[1][2:4]
    assert inputs[0].tolist() == [3.0, 6.0]
    np.testing.assert_array_equal(outputs[0], np.exp([3.0, 6.0]))
    assert all(seconds >= 0 for *_, seconds in calls)
    (dy,), (dx,) = calls[4][2:4]
    assert dy.tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(dx, np.exp([3.0, 6.0]))


def test_a_function_of_ones_own():
    x = leaf(3.0, -4.0)
    y = Square.apply(x)
    y.sum().backward()
    assert y.data.tolist() == [9.0, 16.0]
    assert x.grad.tolist() == [6.0, -8.0]


def test_a_function_is_told_which_inputs_want_a_gradient():
    class Scale(Function):
        @staticmethod
        def forward(ctx, x, factor, number):
            ctx.save_for_backward(factor)
            Scale.needs = ctx.needs_input_grad
            return x * factor * number

        @staticmethod
        def backward(ctx, dy):
            (factor,) = ctx.saved
            return dy * factor, None, None

    x = leaf(2.0)
    Scale.apply(x, Tensor(np.array([3.0])), 1).backward()
    assert Scale.needs == (True, False, False)
    assert x.grad.tolist() == [3.0]


def test_a_gradient_of_the_wrong_shape_is_named():
    class Sum(Function):
        @staticmethod
        def forward(ctx, scale, x):
            return x.sum()

        @staticmethod
        def backward(ctx, dy):
            return None, dy

    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"'Sum' gave its input 1 a gradient of shape \(\), .* has shape \(2,\)"):
        Sum.apply(1.0, x).backward()
    assert x.grad is None


def test_a_backward_that_forgets_an_input_says_so():
    class Product(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, dy):
            return dy

    x, y = leaf(1.0), leaf(2.0)
    with pytest.raises(RuntimeError, match="'Product' gave 1 gradients, but an input after those requires one"):
        Product.apply(x, y).backward()


def test_an_input_without_a_gradient_still_lets_the_others_through():
    """A node that no gradient reaches must not keep those behind it waiting."""

    class First(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + 0 * y

        @staticmethod
        def backward(ctx, dy):
            return dy, None

    x = leaf(1.0)
    shared = x * 2
    First.apply(shared, shared.exp()).backward()
    assert x.grad.tolist() == [2.0]


def test_inputs_may_be_given_by_name():
    x, weight, bias = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(0.0, 1.0)
    y = ops.layernorm(x, bias=bias, weight=weight)
    y.sum().backward()
    xhat = ops.layernorm(x.detach(), None, None)
    np.testing.assert_allclose(weight.grad, xhat.data)
    assert bias.grad.tolist() == [1.0, 1.0]
