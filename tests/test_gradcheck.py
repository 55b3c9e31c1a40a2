"""gradcheck passes what is right, and says where and why what is wrong is wrong."""

import re

import numpy as np
import pytest

from tinygrad_llm import Function, Tensor, gradcheck, ops
from tinygrad_llm.gradcheck import GradientError

RANDOM = np.random.default_rng(0)


class Cube(Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x**3 * scale

    @staticmethod
    def backward(ctx, dy):
        x, scale = ctx.saved
        return dy * 3 * x**2 * scale, (dy * x**3).sum()


def test_what_is_right_passes():
    assert gradcheck(Cube.apply, RANDOM.normal(size=(3, 7)), np.array(2.0))
    assert gradcheck(lambda x: ops.exp(x).sum(), RANDOM.normal(size=5))
    assert gradcheck(ops.embedding, RANDOM.normal(size=(5, 3)), np.array([0, 2, 2]))


def test_a_wrong_factor_is_named_with_input_index_and_both_numbers():
    class Wrong(Cube):
        @staticmethod
        def backward(ctx, dy):
            dx, dscale = Cube.backward(ctx, dy)
            dx = dx.copy()
            dx[1, 2] *= 2
            return dx, dscale

    x = RANDOM.normal(size=(3, 7))
    with pytest.raises(GradientError, match=r"input 0 at \[1, 2\] is (\S+), the complex step gives") as caught:
        gradcheck(Wrong.apply, x, np.array(2.0))
    analytic, right, factor = map(float, re.findall(r"-?\d+\.\d+", str(caught.value)))
    assert analytic == pytest.approx(2 * right)
    assert factor == 2
    assert "only at [1, 2]" in str(caught.value)


def test_a_wrong_element_that_was_not_tried_alone_shows_in_the_projection():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, dy):
            return dy * 1.001

    with pytest.raises(GradientError, match=r"along a random direction.*input 0: it is off by a factor of 1.001"):
        gradcheck(Wrong, RANDOM.normal(size=100), max_elements=0)


def test_a_gradient_that_never_arrives():
    def detached(x):
        return x * 1.0 + Tensor(x.data * 2)

    with pytest.raises(GradientError, match="input 0 at"):
        gradcheck(detached, RANDOM.normal(size=3))


def test_what_cannot_be_checked():
    with pytest.raises(TypeError, match="float64"):
        gradcheck(ops.exp, np.ones(3, np.float32))
    with pytest.raises(TypeError, match="needs an input that requires a gradient"):
        gradcheck(ops.exp, Tensor(np.ones(3)))


class Magnitude(Function):
    """Not analytic: of complex numbers its result is real."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return np.abs(x)

    @staticmethod
    def backward(ctx, dy):
        return dy * np.sign(ctx.saved[0])


class RealPart(Function):
    """Not analytic, but complex numbers come out of it."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0 + np.conj(x)

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


class HalfRight(Cube):
    """A hundred-millionth too large: less than finite differences see."""

    @staticmethod
    def backward(ctx, dy):
        dx, dscale = Cube.backward(ctx, dy)
        return dx * (1 + 1e-8), dscale


def test_the_complex_step_is_exact_where_finite_differences_are_not():
    x = RANDOM.normal(size=(3, 7))
    assert gradcheck(Cube, x, np.array(2.0), rtol=1e-13, atol=1e-13)
    with pytest.raises(GradientError, match=r"the complex step gives.*off by a factor of"):
        gradcheck(HalfRight, x, np.array(2.0))


@pytest.mark.parametrize("function", [Magnitude, RealPart])
def test_finite_differences_are_taken_of_what_is_not_analytic(function):
    x = RANDOM.normal(size=(3, 7))
    assert gradcheck(function, x)

    class Wrong(function):
        @staticmethod
        def backward(ctx, dy):
            return -function.backward(ctx, dy)

    with pytest.raises(GradientError, match=r"finite differences give .*: the sign is wrong"):
        gradcheck(Wrong, x)


def test_pytorch_is_the_measure_where_it_is_given():
    x, scale = RANDOM.normal(size=(3, 7)), np.array(2.0)
    assert gradcheck(Cube, x, scale, torch=lambda x, scale: x**3 * scale)
    assert gradcheck(ops.embedding, RANDOM.normal(size=(5, 3)), np.array([0, 2, 2]), torch=lambda w, ids: w[ids])
    with pytest.raises(GradientError, match=r"the result at \[\d, \d\] is .*, torch gives .*: it is off by a factor"):
        gradcheck(Cube, x, scale, torch=lambda x, scale: x**3 * scale * 2)
    with pytest.raises(GradientError, match=r"input 0 at .* torch gives .*: it is off by a factor of 1.000"):
        gradcheck(HalfRight, x, scale, torch=lambda x, scale: x**3 * scale)
    with pytest.raises(GradientError, match="shape"):
        gradcheck(Cube, x, scale, torch=lambda x, scale: x.sum())


def test_a_kink_at_hand_is_no_mistake_of_the_other_elements():
    x = np.concatenate([RANDOM.normal(size=5), [3.0]])
    assert gradcheck(lambda x: ops.relu(x) * ops.maximum(x, 2.0), x)
