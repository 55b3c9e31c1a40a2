"""gradcheck passes what is right, and says where what is wrong is wrong."""

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
    with pytest.raises(GradientError, match=r"input 0 at \[1, 2\] is (\S+), finite differences give (\S+)") as caught:
        gradcheck(Wrong.apply, x, np.array(2.0))
    numbers = re.findall(r"-?\d+\.\d+", str(caught.value))
    analytic, numeric = map(float, numbers)
    assert analytic == pytest.approx(2 * numeric, rel=1e-4)


def test_a_wrong_element_that_was_not_tried_alone_shows_in_the_projection():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, dy):
            return dy * 1.001

    with pytest.raises(GradientError, match="along a random direction"):
        gradcheck(Wrong.apply, RANDOM.normal(size=100), max_elements=0)


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
