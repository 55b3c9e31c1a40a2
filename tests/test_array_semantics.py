"""A Tensor computes what NumPy's arrays do, and its gradients are PyTorch's, on whatever Hypothesis draws: shapes of
none to five dimensions, some without any element, dtypes side by side, axes, indices; with kernels and without.

By default a few examples of each, always the same; many, other ones each time, with `pytest -m slow`.
"""

import operator
import warnings

import numpy as np
import pytest
import torch
from drawn import (
    DTYPES,
    FLOATS,
    NUMBERS,
    along,
    expanded,
    filled,
    gathered,
    indexed,
    joined,
    masks,
    multiplied,
    one,
    permuted,
    reduced,
    reshaped,
    single,
    sized,
    slices,
    squeezed,
    two,
    whole_numbers,
)
from hypothesis import given, settings

from tinygrad_llm import Tensor, kernels, ops
from tinygrad_llm import functional as F

EXACT = ("float64",)  # for what divides by differences: in float32 see `verification`
FEW = 10  # examples, always the same


def taken(o, x, index):
    """x[index]; in PyTorch, which has no negative steps, the elements at the places that NumPy finds."""
    if o is torch:
        return x.reshape(-1)[torch.tensor(np.arange(x.numel()).reshape(x.shape)[index].copy())]
    return x[index]


def method(name, function):
    """A method that takes nothing more."""
    return one(), lambda o, x: getattr(x, name)(), function


def between(function, dtypes=DTYPES):
    """An operator."""
    return two(dtypes), lambda o, x, y: function(x, y), function


def over(name, function, drawn):
    """A method with dim and keepdim. Of the pair that max and min give, the first."""

    def reduce(o, x, dim, keepdim):
        y = getattr(x, name)(dim=dim, keepdim=keepdim)
        return y[0] if isinstance(y, tuple) else y

    return drawn, reduce, lambda x, dim, keepdim: function(x, axis=dim, keepdims=keepdim)


def softmax(x, dim):
    return np.exp(x) / np.exp(x).sum(dim, keepdims=True)


def gather(x, dim, places):
    within = tuple(slice(None) if axis == dim % x.ndim else slice(size) for axis, size in enumerate(places.shape))
    return np.take_along_axis(x[within], places, dim)


def functional(o):
    return F if o is ops else torch.nn.functional


def of_functional(name, *drawn, **options):
    """A function of torch.nn.functional's, which NumPy has not."""
    return sized(*drawn), lambda o, *x: getattr(functional(o), name)(*x, **options), None


# By name: what is drawn, the expression of tensors, ours or PyTorch's (o is ops or torch), and NumPy's of arrays.
CALLS = {
    "add": between(operator.add),
    "sub": between(operator.sub, NUMBERS),
    "mul": between(operator.mul),
    "div": between(operator.truediv),
    "pow": between(operator.pow, FLOATS),
    "maximum": (two(), lambda o, x, y: o.maximum(x, y), np.maximum),
    "minimum": (two(), lambda o, x, y: o.minimum(x, y), np.minimum),
    **{name: between(getattr(operator, name)) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "number on the left": (one(DTYPES), lambda o, x: 3 - 2.0 * x, lambda x: 3 - 2.0 * x),
    "number on the right": (one(DTYPES), lambda o, x: (x + 1) / 4, lambda x: (x + 1) / 4),
    "neg": (one(NUMBERS), lambda o, x: -x, np.negative),
    **{name: method(name, getattr(np, name)) for name in ("abs", "exp", "log", "sqrt", "tanh", "squeeze")},
    "clamp": (one(), lambda o, x: x.clamp(-1, 0.5), lambda x: np.clip(x, -1, 0.5)),
    "where": (two(masked=True), lambda o, x, y, mask: o.where(mask, x, y), lambda x, y, mask: np.where(mask, x, y)),
    "masked_fill": (filled(), lambda o, x, mask: x.masked_fill(mask, -3), lambda x, mask: np.where(mask, -3, x)),
    "sum": over("sum", np.sum, reduced(DTYPES)),
    "mean": over("mean", np.mean, reduced()),
    "var": over("var", lambda x, **options: np.var(x, **options, ddof=1), reduced()),
    "std": over("std", lambda x, **options: np.std(x, **options, ddof=1), reduced()),
    "amax": over("amax", np.max, reduced(min_side=1)),
    "max": over("max", np.max, single(1)),
    "min": over("min", np.min, single(1)),
    "argmax": over("argmax", np.argmax, single(1)),
    "logsumexp": over("logsumexp", lambda x, **options: np.log(np.sum(np.exp(x), **options)), single(0)),
    "softmax": (along(), lambda o, x, dim: x.softmax(dim), softmax),
    "log_softmax": (along(), lambda o, x, dim: x.log_softmax(dim), lambda x, dim: np.log(softmax(x, dim))),
    "cumsum": (along(dtypes=DTYPES), lambda o, x, dim: x.cumsum(dim), np.cumsum),
    "slices": (indexed(slices), taken, operator.getitem),
    "whole numbers": (indexed(whole_numbers), taken, operator.getitem),
    "masks": (indexed(masks), taken, operator.getitem),
    "gather": (gathered(), lambda o, x, dim, places: o.gather(x, dim, places), gather),
    "reshape": (reshaped(), lambda o, x, shape: x.reshape(shape), np.reshape),
    "flatten": method("flatten", np.ravel),
    "expand": (expanded(), lambda o, x, full, given: x.expand(given), lambda x, full, given: np.broadcast_to(x, full)),
    "squeeze dims": (squeezed(), lambda o, x, dims: x.squeeze(dims), np.squeeze),
    "unsqueeze": (along(), lambda o, x, dim: x.unsqueeze(dim), np.expand_dims),
    "permute": (permuted(), lambda o, x, dims: x.permute(dims), np.transpose),
    "transpose": (along(2), lambda o, x, dim: x.transpose(dim, 0), lambda x, dim: np.swapaxes(x, dim, 0)),
    "tril": (one(min_dims=2), lambda o, x: x.tril(1), lambda x: np.tril(x, 1)),
    "triu": (one(min_dims=2), lambda o, x: x.triu(-1), lambda x: np.triu(x, -1)),
    "split": (along(), lambda o, x, dim: x.split(2, dim)[0], lambda x, dim: x.take(range(x.shape[dim])[:2], dim)),
    "cat": (joined(), lambda o, *x: o.cat(x[:-1], x[-1]), lambda *x: np.concatenate(x[:-1], x[-1])),
    "stack": (joined(alike=True), lambda o, *x: o.stack(x[:-1], x[-1]), lambda *x: np.stack(x[:-1], x[-1])),
    "matmul": (multiplied(), lambda o, x, y: x @ y, np.matmul),
    "linear": of_functional("linear", "btc vc v"),
    "embedding": (sized("Vc", "bt<V"), lambda o, weight, ids: functional(o).embedding(ids, weight), None),
    **{name: of_functional(name, "abtc") for name in ("gelu", "silu", "relu", "sigmoid", "logsigmoid")},
    "layer_norm": (
        sized("btC C C", dtypes=EXACT),
        lambda o, x, *p: functional(o).layer_norm(x, x.shape[-1:], *p),
        None,
    ),
    "rms_norm": (
        sized("btC C", dtypes=EXACT),
        lambda o, x, weight: functional(o).rms_norm(x, x.shape[-1:], weight, 1e-5),
        None,
    ),
    "gelu tanh": of_functional("gelu", "abtc", approximate="tanh"),
    "mse_loss": of_functional("mse_loss", "btc btc"),
    "cross_entropy": of_functional("cross_entropy", "bV", "b<V", reduction="sum"),
    "mean cross_entropy": of_functional("cross_entropy", "bVt", "bt<V"),
    "nll_loss": of_functional("nll_loss", "bV", "b<V", reduction="none"),
    "attention": of_functional("scaled_dot_product_attention", "bhtC bhsC bhsd"),
    "causal attention": of_functional("scaled_dot_product_attention", "bhtC bhtC bhtd", is_causal=True),
}


def check(arrays, arguments, expression, of_arrays):
    """The value is NumPy's; dtype, shape and every gradient are PyTorch's."""
    tensors = [Tensor(x, requires_grad=x.dtype.kind == "f") for x in arrays]
    theirs = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in arrays]
    as_theirs = [torch.tensor(x) if isinstance(x, np.ndarray) else x for x in arguments]
    y, expected = expression(ops, *tensors, *arguments), expression(torch, *theirs, *as_theirs)
    rounded = any(x.dtype in (np.float32, np.int32) for x in [*arrays, expected.detach().numpy()])
    close = {"rtol": 1e-4, "atol": 1e-4} if rounded else {"rtol": 1e-9, "atol": 1e-11}
    values = expected.detach().numpy() if of_arrays is None else of_arrays(*arrays, *arguments)
    assert (y.shape, y.dtype) == (tuple(expected.shape), expected.detach().numpy().dtype)
    assert y.shape == np.shape(values)
    np.testing.assert_allclose(y.data, values, **close)
    assert y.requires_grad == expected.requires_grad
    if y.requires_grad:
        dy = np.random.default_rng(0).normal(size=y.shape).astype(y.dtype)
        y.backward(dy)
        expected.backward(torch.tensor(dy))
        for x, their in zip(tensors, theirs, strict=True):
            if x.requires_grad:
                assert x.grad.dtype == x.dtype
                np.testing.assert_allclose(x.grad, their.grad.numpy(), **close)


HAVE_KERNELS = ["add", "linear", "embedding", "gelu", "gelu tanh", "layer_norm", "rms_norm", "cross_entropy"]
HAVE_KERNELS += ["mean cross_entropy", "attention", "causal attention"]


@pytest.mark.parametrize("examples", [FEW, pytest.param(100 * FEW, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "kernel_set"), [*((name, "numpy") for name in CALLS), *((name, "numba") for name in HAVE_KERNELS)]
)
def test_values_are_those_of_numpy_and_gradients_those_of_pytorch(name, kernel_set, examples):
    drawn, expression, of_arrays = CALLS[name]

    @settings(max_examples=examples, derandomize=examples == FEW, database=None, deadline=None)
    @given(drawn)
    def holds(call):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the mean or the variance of nothing
            check(*call, expression, of_arrays)

    with kernels.use(kernel_set):
        holds()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (3, 2)])
def test_what_python_asks_of_an_array(shape):
    """Its length, its elements one after the other, whether it is true, and its number, or the same refusal."""
    array = np.random.default_rng(0).integers(0, 5, shape)
    asked = [len, lambda x: [np.asarray(row).tolist() for row in x], int, float, operator.index, bool, lambda x: 2 in x]
    for ask in asked:
        try:
            expected = ask(array)
        except (TypeError, ValueError) as error:
            with pytest.raises(type(error)):
                ask(Tensor(array))
        else:
            assert ask(Tensor(array)) == expected


def test_an_index_may_be_a_tensor_or_a_list_of_tensors_beside_slices():
    x = np.arange(24).reshape(2, 3, 4)
    rows, columns, mask = np.array([[1], [0]]), np.array([2, 0]), np.array([True, False, True])
    for index in [(rows,), (rows, columns), (0, mask), (..., columns), (rows, slice(None), columns), (None, mask[:2])]:
        tensors = tuple(Tensor(i) if isinstance(i, np.ndarray) else i for i in index)
        np.testing.assert_array_equal(Tensor(x)[tensors].data, x[index])
    np.testing.assert_array_equal(Tensor(x)[1, : Tensor(2)].data, x[1, :2])


def test_nothing_is_done_in_place():
    """Elements cannot be assigned, and `x += y` names another tensor: what others hold stays as it is."""
    x = Tensor(np.arange(3.0), requires_grad=True)
    with pytest.raises(TypeError, match="does not support item assignment"):
        x[0] = 1.0
    with pytest.raises(TypeError, match="support item deletion"):
        del x[0]
    for function in (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow):
        y = function(x, 2.0)
        assert y is not x and y.requires_grad
    assert x.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(TypeError):
        np.add(np.ones(3), 1.0, out=x)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda x: x + np.ones(4), ValueError),
        (lambda x: x @ np.ones((2, 3)), ValueError),
        (lambda x: x[2], IndexError),
        (lambda x: x[0, 0, 0], IndexError),
        (lambda x: x[np.ones(3, bool)], IndexError),
        (lambda x: x[1.0], IndexError),
        (lambda x: x.sum(2), ValueError),
        (lambda x: x.sum((0, 0)), ValueError),
        (lambda x: x[:0].amax(0), ValueError),
        (lambda x: x.reshape(4, -1), ValueError),
        (lambda x: x[:0].reshape(0, -1), ValueError),
        (lambda x: x.expand(2, 4), ValueError),
        (lambda x: x.masked_fill(np.ones((4, 2, 3), bool), 0), ValueError),
        (lambda x: ops.cat([x, x[0]]), ValueError),
        (lambda x: ops.stack([x, x.T]), ValueError),
        (lambda x: x.float().where(np.ones(4, bool), 0), ValueError),
        (lambda x: (x > 0) - (x > 0), TypeError),
    ],
)
def test_what_numpy_refuses_is_refused(call, kind):
    with pytest.raises(kind):
        call(Tensor(np.ones((2, 3))))


def test_dtypes_of_comparisons_are_those_of_arithmetic():
    """A tensor without axes does not widen one that has some, as in torch; NumPy would compare in float64."""
    tenth = np.array([0.1], np.float32)
    assert (Tensor(tenth) == Tensor(np.array(0.1))).tolist() == [True]
    assert (Tensor(tenth) == 0.1).tolist() == (torch.tensor(tenth) == 0.1).tolist() == [True]
