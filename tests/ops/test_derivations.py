"""Every page's derivation is proven (see `suites.derivation`), and a false one refuted."""

import numpy as np
import pytest
import sympy
from faults import planted
from test_autograd import Square

from tinygrad_llm import ledger
from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError
from tinygrad_llm.gradcheck import GradientError
from tinygrad_llm.identities import vanishes
from tinygrad_llm.kernels import KernelSet
from tinygrad_llm.suites.derivation import CASES, UNPROVEN, compare, x
from tinygrad_llm.symbolic import Proof, Undecided, exact, prove, symbols
from tinygrad_llm.verification import operations


def test_every_operation_is_proven_or_has_a_reason():
    assert CASES.keys() | UNPROVEN.keys() == operations().keys()
    assert not CASES.keys() & UNPROVEN.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_backward_is_the_derivative(name):
    comparison = compare(name)
    assert comparison.failures == []
    row = ledger.row(comparison)
    assert ledger.worse(row, ledger.read().get(row.key)) == ""


@pytest.mark.parametrize("name", CASES)
def test_a_seeded_fault_is_refuted(name, tmp_path):
    module = KernelSet(str(planted(name, "numpy", tmp_path))).find(name)
    faulty = operation(getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward"))
    with pytest.raises(GradientError) as caught:
        for inputs, options in CASES[name]:
            prove(faulty, *inputs, **options)
    assert not isinstance(caught.value, Undecided)


def test_a_function_of_ones_own():
    assert prove(Square, x) == Proof((0,), ())

    class Wrong(Square):
        @staticmethod
        def backward(ctx, dy):
            return Square.backward(ctx, dy) * (1 + 1e-9)  # too little for finite differences

    with pytest.raises(GradientError, match=r"for a at the symbols' values, the gradient gives \S+, SymPy's deriv"):
        prove(Wrong, symbols("a", at=2))
    with pytest.raises(GradientError, match=r"input 0 has shape \(2, 3\), its gradient \(3,\)"):
        prove(operation(lambda x: x * 1, lambda dy: dy[0]), x)
    with pytest.raises(TypeError, match="an input of `symbols`"):
        prove(Square, np.ones(3))


def test_the_region_is_where_comparisons_come_out_the_same():
    a, b = symbols("a", 2, at=[-1, 3])
    assert prove(operations()["relu"], symbols("a", 2, at=[-1, 3])).region == (a < 0, b > 0)
    with pytest.raises(UserError, match="a_0 and a_1 are equal at the symbols' values"):
        prove(operations()["amax"], symbols("a", 2, at=[1, 1]))


def test_what_is_not_known_is_not_called_wrong():
    """Nothing knows here that sin^2 + cos^2 = 1, so that both are the gradient of x."""
    odd = operation(lambda x: (x * 1, x), lambda dy, x: dy * (np.sin(x) ** 2 + np.cos(x) ** 2))
    with pytest.raises(Undecided, match="neither proven nor refuted"):
        prove(odd, x)


def test_floats_are_the_numbers_that_they_round():
    assert exact(0.044715) == sympy.Rational(44715, 10**6)
    assert exact(2 / 3) == sympy.Rational(2, 3)
    assert exact(-np.sqrt(2 / np.pi)) == -sympy.sqrt(2 / sympy.pi)
    assert exact(np.float32(0.1)) == sympy.Rational(13421773, 2**27)
    assert exact(-np.inf) == -sympy.oo


def test_identities():
    a, b = (sympy.Symbol(name, real=True) for name in "ab")
    e, root = sympy.exp, sympy.sqrt
    assert vanishes(e(a + b) - e(a) * e(b))
    assert vanishes(e(a - sympy.log(1 + e(b))) * (1 + e(b)) - e(a))
    assert vanishes(1 / (1 + root(a * a + 1)) - (root(a * a + 1) - 1) / a**2)
    assert vanishes(root(2) * root(2 * sympy.pi) - 2 * root(sympy.pi))
    assert not vanishes(e(a + b) - e(a) - e(b))
    assert not vanishes(root(a * a + 1) - a)
    assert not vanishes(e(a / 2) - e(a / 3))
    assert not vanishes(a * sympy.Rational(1, 10**30))
