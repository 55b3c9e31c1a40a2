"""What is said of a wrong gradient is true, and of the planted faults it is what was planted."""

import re

import numpy as np
import pytest
from faults import planted
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm import Function, gradcheck, kernels
from tinygrad_llm.diagnosis import diagnose
from tinygrad_llm.gradcheck import GradientError
from tinygrad_llm.reference import ORACLES
from tinygrad_llm.verification import (
    compare,
    input_names,
    operations,
    output_gradient,
    relative_error,
    rounded,
    run,
    run_oracle,
)

OPERATIONS = operations()
RANDOM = np.random.default_rng(5)
X, DY, EXPECTED = RANDOM.normal(size=(3, 7, 7))
ARRAYS = {"x": X, "y": np.exp(X), "dy": DY}

WORDS = {
    "sub": "the sign is wrong",
    "div": "it misses a factor of z",
    "exp": "it misses a factor of y",
    "log": "it has a factor of x^2 too much",
    "sqrt": "it is off by a factor of 2.000",
    "tanh": "it misses a factor of (1 + y)",
    "logsigmoid": "it has a factor of exp(x) too much",
    "mean": "the length of axis 0 of the gradient: a sum for a mean?",
    "sum": "one over the number of elements of the gradient: a mean for a sum?",
    "amax": "it is off by a factor that is constant along the last axis",
    "masked_fill": "it is not zero at 8 elements where it must be: is a mask missing?",
    "embedding": "only the last of repeated indices in ids is counted",
    "gather": "only the last of repeated indices in index is counted",
    "reshape": "it has the right numbers in wrong places",
    "layernorm": "it misses a term that is along the last axis a constant and a multiple of x",
    "rmsnorm": "it misses a term that is along the last axis a multiple of x (a projection?)",
    "attention_segments": "it is the gradient of k: are two swapped?",
    "cast": "it is rounded to float16",
    "swiglu": "it is 1.000 up dy, and nothing else",
    "kl_div": "it misses the term 1.000 dy exp(target)",
}


def said_of(name: str, tmp_path) -> list[str]:
    """What is said of each wrong gradient that the planted fault makes, on all cases."""
    said = []
    with kernels.use(str(planted(name, "numpy", tmp_path))):
        for case in ORACLES[name].cases:
            inputs, options = rounded(*case.make(0), "float64")
            exact = run_oracle(ORACLES[name], inputs, options, "float64")
            try:
                ours = run(OPERATIONS[name], inputs, options, "float64")
            except ValueError:  # gradients of the wrong shapes
                continue
            arrays = dict(zip(input_names(OPERATIONS[name], len(inputs)), inputs, strict=True)) | options
            y = "z" if "y" in arrays else "y"
            arrays |= {y: exact["y"], f"d{y}": output_gradient(exact["y"].shape)}
            for key in exact.keys() - {"y"}:
                if not relative_error(ours[key], exact[key]) <= 1e-10:
                    others = {other[1:]: dx for other, dx in exact.items() if other not in ("y", key)}
                    said.append(diagnose(ours[key], exact[key], arrays, others))
    return said


@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
@pytest.mark.parametrize("name", WORDS)
def test_a_planted_fault_is_named(name, tmp_path):
    said = said_of(name, tmp_path)
    assert any(words and WORDS[name] in words for words in said), said


def test_the_comparison_with_pytorch_tells_the_formula(tmp_path):
    failures = compare("sub", str(planted("sub", "numpy", tmp_path)), "float64").failures
    assert failures and all(failure.endswith("allowed 1.0e-10: the sign is wrong") for failure in failures), failures


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (-EXPECTED, "the sign is wrong"),
        (EXPECTED / 3, r"off by a factor of 0\.3333 \(1/3\)"),
        (EXPECTED * 1.001, r"off by a factor of 1\.001"),
        (EXPECTED.T, "transposed: axes 0 and 1 are swapped"),
        (EXPECTED[::-1], "reversed along axis 0"),
        (0 * EXPECTED, "never arrives"),
        (EXPECTED + 0.5, r"misses the constant -0\.5000"),
        (EXPECTED + DY.mean(axis=-1, keepdims=True), r"constant along the last axis \(a mean\?\)"),
        (EXPECTED + DY.mean(axis=0), r"constant along axis 0 \(a mean\?\)"),
        (EXPECTED - 2 * DY * X, r"misses the term 2\.000 x dy"),
        (EXPECTED * X / ARRAYS["y"], "misses a factor of y and has a factor of x too much"),
        (np.where(X > 0, EXPECTED, 0), r"zero at \d+ of 49 elements where it must not be"),
        (np.where(np.arange(49).reshape(7, 7) == 9, -EXPECTED, EXPECTED), r"the sign is wrong only at \[1, 2\]"),
        (np.where(np.arange(7) == 2, 2 * EXPECTED, EXPECTED), r"factor of 2\.000 only at index 2 of the last axis"),
        (np.where(X > 1, np.inf, EXPECTED), "not finite"),
    ],
)
def test_a_formula_is_fitted(wrong, words):
    said = diagnose(wrong, EXPECTED, ARRAYS)
    assert said and re.search(words, said), said


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1,), (2,), (2, 2), (3, 5), (2, 3, 4), (40,)]))
@settings(deadline=None, max_examples=40)
def test_nothing_is_said_of_numbers_that_no_formula_makes(seed, shape):
    random = np.random.default_rng(seed)
    got, expected, x, dy = random.normal(size=(4, *shape))
    said = diagnose(got, expected, {"x": x, "y": x**2, "dy": dy}, {"w": random.normal(size=shape)})
    assert said is None or np.prod(shape) < 3 or "right numbers" in said, said


def test_gradcheck_tells_the_formula_from_finite_differences_alone():
    class Softmax(Function):
        """Without the sum over the row, and through numbers whose imaginary part is lost."""

        @staticmethod
        def forward(ctx, x):
            e = np.exp(np.real(x) - np.real(x).max(axis=-1, keepdims=True))
            y = e / e.sum(axis=-1, keepdims=True)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, dy):
            return dy * ctx.saved[0]

    with pytest.raises(GradientError, match=r"finite differences give .*: it misses a term .* a multiple of y"):
        gradcheck(Softmax, RANDOM.normal(size=(4, 7)))
