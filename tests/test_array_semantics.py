"""A Tensor computes what NumPy's arrays do, and its gradients are PyTorch's, on whatever Hypothesis draws: shapes of
none to five dimensions, some without any element, dtypes side by side, axes, indices; with kernels and without.

By default a few examples of each, always the same; many, other ones each time, with `pytest -m slow`.
"""

import operator
import string
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_llm import Tensor, kernels, ops
from tinygrad_llm import functional as F

FLOATS = ("float64", "float32")
NUMBERS = (*FLOATS, "int64", "int32")
DTYPES = (*NUMBERS, "bool")
EXACT = ("float64",)  # for what divides by differences: in float32 see `verification`
FEW = 10  # examples, always the same
draws = st.composite

# What is drawn: arrays, and what else the expression takes.


def shapes(min_dims=0, max_side=3, min_side=0):
    return hnp.array_shapes(min_dims=min_dims, max_dims=5, min_side=min_side, max_side=max_side)


@draws
def array(draw, shape, dtypes=FLOATS):
    """Normal numbers, or small whole ones, of which many are equal or zero; every other array has gaps in memory."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    dtype, whole, gaps = draw(st.sampled_from(dtypes)), draw(st.booleans()), draw(st.booleans()) and shape
    shape = (*shape[:-1], 2 * shape[-1]) if gaps else shape
    x = np.asarray(random.integers(-2, 3, shape) if whole else 2 * random.normal(size=shape)).astype(dtype)
    return x[..., ::2] if gaps else x


@draws
def one(draw, shapes=shapes(), dtypes=FLOATS):  # noqa: B008
    return [draw(array(draw(shapes), dtypes))], ()


@draws
def two(draw, dtypes=DTYPES, masked=False):
    """Arrays that broadcast to each other; and booleans that do."""
    found = draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=5, min_side=0, max_side=3)).input_shapes
    return [draw(array(shape, dtypes)) for shape in found[:2]], (draw(hnp.arrays(bool, found[2])),) if masked else ()


@draws
def along(draw, min_dims=1, min_side=0, dtypes=FLOATS):
    """An array and an axis."""
    x = draw(array(draw(shapes(min_dims, min_side=min_side)), dtypes))
    return [x], (draw(st.integers(-x.ndim, x.ndim - 1)),)


@draws
def reduced(draw, dtypes=FLOATS, min_side=0):
    """An array, and (dim, keepdim): one axis, several, or all."""
    (x,), (dim,) = draw(along(1, min_side, dtypes))
    dim = draw(st.one_of(st.just(dim), hnp.valid_tuple_axes(x.ndim, min_size=1), st.none()))
    return [x], (dim, draw(st.booleans()))


@draws
def indexed(draw, indices):
    x = draw(array(draw(shapes(1)), DTYPES))
    return [x], (draw(indices(x.shape)),)


def slices(shape):
    return hnp.basic_indices(shape, allow_newaxis=True)


@draws
def whole_numbers(draw, shape):
    """Whole numbers in arrays that broadcast to each other, single ones, and slices."""
    chosen = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))

    def of(size):
        numbers = st.integers(-size, size - 1)
        return st.one_of(st.slices(size), *([numbers, hnp.arrays(np.int64, chosen, elements=numbers)] if size else []))

    return tuple(draw(of(size)) for size in shape[: draw(st.integers(1, len(shape)))])


def masks(shape):
    return st.integers(1, len(shape)).flatmap(lambda n: st.tuples(hnp.arrays(bool, shape[:n])))


@draws
def gathered(draw):
    """An array, an axis, and whole numbers, with as many axes, to take along it."""
    (x,), (dim,) = draw(along())
    shape = [draw(st.integers(0, size)) for size in x.shape]
    shape[dim] = draw(st.integers(0, 4)) if x.shape[dim] else 0
    places = hnp.arrays(np.int64, tuple(shape), elements=st.integers(0, max(x.shape[dim] - 1, 0)))
    return [x], (dim, draw(places))


@draws
def filled(draw):
    """An array, and booleans that broadcast to it."""
    x = draw(array(draw(shapes())))
    shape = tuple(draw(st.sampled_from((1, size))) for size in x.shape)
    return [x], (draw(hnp.arrays(bool, shape[draw(st.integers(0, x.ndim)) :])),)


@draws
def reshaped(draw):
    """An array, and another shape for its elements, one size of which may be -1."""
    x = draw(array(draw(shapes())))
    sizes = draw(st.permutations((*x.shape, 1, 1)))
    cut = draw(st.integers(1, len(sizes)))
    sizes = [int(np.prod(sizes[:cut])), *sizes[cut:]]
    if x.size and draw(st.booleans()):
        sizes[draw(st.integers(0, len(sizes) - 1))] = -1
    return [x], (tuple(sizes),)


@draws
def expanded(draw):
    """An array, a shape that it broadcasts to, and the same with -1 for some sizes that stay."""
    full = draw(shapes())
    small = tuple(draw(st.sampled_from((1, size))) for size in full)[draw(st.integers(0, len(full))) :]
    new = len(full) - len(small)
    given = [-1 if i >= new and small[i - new] == n and draw(st.booleans()) else n for i, n in enumerate(full)]
    return [draw(array(small))], (full, tuple(given))


@draws
def squeezed(draw):
    """An array, and some of its axes of size one."""
    x = draw(array(draw(shapes(max_side=2))))
    return [x], (tuple(i - draw(st.sampled_from((0, x.ndim))) for i, n in enumerate(x.shape) if n == 1),)


@draws
def permuted(draw):
    x = draw(array(draw(shapes())))
    return [x], (tuple(i - draw(st.sampled_from((0, x.ndim))) for i in draw(st.permutations(range(x.ndim)))),)


@draws
def joined(draw, alike=False):
    """Arrays, of several dtypes, that differ in shape along one axis or not at all; and the axis."""
    shape = draw(hnp.array_shapes(min_dims=0 if alike else 1, max_dims=4, min_side=0, max_side=3))
    dim = draw(st.integers(-len(shape) - alike, len(shape) - 1 + alike))
    found = [list(shape) for _ in range(draw(st.integers(1, 3)))]
    for each in found if not alike else ():
        each[dim] = draw(st.integers(0, 3))
    return [draw(array(tuple(each), DTYPES)) for each in found], (dim,)


@draws
def multiplied(draw):
    """Arrays of one dtype that have a matrix product."""
    found = draw(hnp.mutually_broadcastable_shapes(signature="(n?,k),(k,m?)->(n?,m?)", max_dims=3, min_side=0))
    dtype = draw(st.sampled_from(FLOATS))
    return [draw(array(shape, [dtype])) for shape in found.input_shapes], ()


@draws
def sized(draw, letters, *ids, dtypes=FLOATS):
    """Arrays of one dtype with shapes such as "btc vc": each letter is a size, 0 too where it is small; and for each of
    `ids`, such as "bt<V", whole numbers of that shape below that size."""
    used = sorted({*letters, *"".join(ids)} & {*string.ascii_letters})
    size = {x: draw(st.integers(x.isupper(), 4)) for x in used}
    dtype = draw(st.sampled_from(dtypes))
    arrays = [draw(array(tuple(size[x] for x in shape), [dtype])) for shape in letters.split()]
    whole = []
    for shape, _, most in (each.partition("<") for each in ids):
        below = st.integers(0, size[most] - 1)
        whole.append(draw(hnp.arrays(np.int64, tuple(size[x] for x in shape), elements=below)))
    return arrays, tuple(whole)


# The expressions.


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


def over(name, function, drawn=reduced()):  # noqa: B008
    """A method with dim and keepdim. Of the pair that max and min give, the first."""

    def reduce(o, x, dim, keepdim):
        y = getattr(x, name)(dim=dim, keepdim=keepdim)
        return y[0] if isinstance(y, tuple) else y

    return drawn, reduce, lambda x, dim, keepdim: function(x, axis=dim, keepdims=keepdim)


def single(min_side):
    return st.tuples(along(1, min_side), st.booleans()).map(lambda drawn: (drawn[0][0], (*drawn[0][1], drawn[1])))


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
    "number on the left": (one(shapes(), DTYPES), lambda o, x: 3 - 2.0 * x, lambda x: 3 - 2.0 * x),
    "number on the right": (one(shapes(), DTYPES), lambda o, x: (x + 1) / 4, lambda x: (x + 1) / 4),
    "neg": (one(shapes(), NUMBERS), lambda o, x: -x, np.negative),
    **{name: method(name, getattr(np, name)) for name in ("abs", "exp", "log", "sqrt", "tanh", "squeeze")},
    "clamp": (one(), lambda o, x: x.clamp(-1, 0.5), lambda x: np.clip(x, -1, 0.5)),
    "where": (two(masked=True), lambda o, x, y, mask: o.where(mask, x, y), lambda x, y, mask: np.where(mask, x, y)),
    "masked_fill": (filled(), lambda o, x, mask: x.masked_fill(mask, -3), lambda x, mask: np.where(mask, -3, x)),
    "sum": over("sum", np.sum, reduced(DTYPES)),
    "mean": over("mean", np.mean),
    "var": over("var", lambda x, **options: np.var(x, **options, ddof=1)),
    "std": over("std", lambda x, **options: np.std(x, **options, ddof=1)),
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
    "tril": (one(shapes(2)), lambda o, x: x.tril(1), lambda x: np.tril(x, 1)),
    "triu": (one(shapes(2)), lambda o, x: x.triu(-1), lambda x: np.triu(x, -1)),
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
    single = any(x.dtype in (np.float32, np.int32) for x in [*arrays, expected.detach().numpy()])
    close = {"rtol": 1e-4, "atol": 1e-4} if single else {"rtol": 1e-9, "atol": 1e-11}
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
