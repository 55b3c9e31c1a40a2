"""Is a derivative right, exactly? The forward and the backward themselves, run on symbols, and SymPy's derivative.

NumPy's functions compute on `Symbols`, arrays of SymPy expressions that give themselves out for float64. So `prove`
runs the code of an operation, not a transcript of it: y from symbols x, and dx from symbols dy. With L = sum(dy y),

    dL/dx - dx = 0

is an identity of expressions, and so holds for all numbers for which they are defined. `vanishes` decides it by
arithmetic with whole numbers. Three things to know about what is proven:

- Shapes and indices are those given: the formula for 2 rows of 3 is proven for 2 rows of 3.
- A comparison (maximum, abs, where(x > 0, …)) comes out as it does at the symbols' values, one point. The proof holds
  wherever all comparisons come out the same; `Proof.region` lists them. Where two sides are equal and not the same
  expression, there may be no derivative, and `prove` refuses such a point.
- Numbers are exact; rounding is the business of the numerical tests. A float is the number that it rounds: 0.5,
  2 / 3 and math.sqrt(2 / math.pi) are a half, two thirds and the root of 2 / pi (see `exact`).
"""

import inspect
import math
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tinygrad_llm.autograd import Function
from tinygrad_llm.errors import UserError
from tinygrad_llm.gradcheck import GradientError
from tinygrad_llm.identities import sympy, vanishes

DIGITS, NOTHING = 30, 1e-20  # how a number is looked at, which finds orders and errors and proves nothing

_region: ContextVar[dict] = ContextVar("region")


class Undecided(GradientError):
    """Neither proven nor refuted: the two agree at the symbols' values, and `vanishes` does not know why."""


@dataclass(frozen=True)
class Proof:
    """What was proven: the gradients of the inputs at these positions, wherever these comparisons hold."""

    inputs: tuple[int, ...]
    region: tuple


def prove(operation: Callable | type[Function], *inputs, **options) -> Proof:
    """Show that the backward of an operation, or of a `Function`, is the derivative of its forward, exactly.

    >>> from tinygrad_llm import ops
    >>> from tinygrad_llm.symbolic import prove, symbols
    >>> prove(ops.softmax, symbols("x", 3, at=[1, 3, 2]))
    Proof(inputs=(0,), region=(x_0 < x_1, x_1 > x_2))
    >>> prove(Square, symbols("x", 2, 3))  # a Function of one's own
    Proof(inputs=(0,), region=())

    inputs: `symbols` for those whose gradient is to be proven; anything else is passed on, as options are. A symbol may
    stand in several places, as may expressions of symbols: then the chain rule's total is proven.
    Raises GradientError where a gradient is another, with both numbers at the symbols' values; Undecided; and TypeError
    where there is nothing to prove.
    """
    token = _region.set({})
    try:
        y, gradients = _run(operation, inputs, options)
        region = tuple(_region.get())
    finally:
        _region.reset(token)
    sent = enumerate(zip(inputs, gradients, strict=False))
    places = [i for i, (x, dx) in sent if isinstance(x, Symbols) and dx is not None]
    if not places:
        raise TypeError("prove needs an input of `symbols` to which the backward sends a gradient")
    pairs = zip(_elements(_output_gradient(y)), _elements(y), strict=True)
    loss = sympy.Add(*(dy * y_i for dy, y_i in pairs if y_i.free_symbols))
    variables = sorted(set().union(*(x.free_symbols for i in places for x in _elements(inputs[i]))), key=str)
    for i in places:
        if np.shape(gradients[i]) != inputs[i].shape:
            raise GradientError(f"input {i} has shape {inputs[i].shape}, its gradient {np.shape(gradients[i])}")
    for variable in variables:
        derivative = sympy.diff(loss, variable)
        pairs = [pair for i in places for pair in zip(_elements(inputs[i]), _elements(gradients[i]), strict=True)]
        ours = sympy.Add(*(dx * sympy.diff(x, variable) for x, dx in pairs if variable in x.free_symbols))
        if not vanishes(derivative - ours):
            numbers = f"the gradient gives {_number(ours)}, SymPy's derivative {_number(derivative)}"
            if abs(_number(derivative - ours)) < NOTHING:
                raise Undecided(f"for {variable}, {numbers}: equal there, and neither proven nor refuted elsewhere")
            raise GradientError(f"for {variable} at the symbols' values, {numbers}")
    return Proof(tuple(places), region)


def _run(operation, inputs: tuple, options: dict) -> tuple["Symbols", tuple]:
    """The result of the forward, and the gradients that the backward makes of symbols dy."""
    needs = tuple(isinstance(x, Symbols) for x in inputs)
    if isinstance(operation, type) and issubclass(operation, Function):
        ctx = operation.Context()
        ctx.needs_input_grad = needs
        y = operation.forward(ctx, *inputs, **options)
        gradients = operation.backward(ctx, _output_gradient(y))
    else:
        y = operation.forward(*inputs, **options)
        y, *saved = y if isinstance(y, tuple) else (y,)
        if "needs" in inspect.signature(operation.backward).parameters:
            saved.append(needs + (False,) * len(inspect.signature(operation.forward).parameters))
        gradients = operation.backward(_output_gradient(y), *saved)
    return y, gradients if isinstance(gradients, tuple) else (gradients,)


def _output_gradient(y) -> "Symbols":
    return symbols("dy", *np.shape(y))


def symbols(name: str, *shape: int, at=None) -> "Symbols":
    """An array of symbols, name_0, name_1, …, real numbers each with a value: that in `at`, else a random fraction.

    The values say how comparisons come out, and nothing else.
    """
    if at is None:
        at = np.random.default_rng(zlib.crc32(name.encode())).permutation(1999)[: math.prod(shape)] / 500 - 2
        at = at.reshape(shape)
    at = np.asarray(at, dtype=object)
    at = at.reshape(shape or at.shape)
    array = np.empty(at.shape, dtype=object)
    for index, value in np.ndenumerate(at):
        array[index] = Variable("_".join([name, *map(str, index)]), value)
    return array.view(Symbols)


class Variable(sympy.Symbol):
    """A real symbol with a value."""

    __slots__ = ("value",)

    def __new__(cls, name: str, value):
        variable = sympy.Symbol.__xnew__(cls, name, real=True)
        variable.value = exact(value)
        return variable

    def _hashable_content(self):
        return (*super()._hashable_content(), self.value)


def exact(x) -> sympy.Expr:
    """The number that x stands for: of a float the one that it rounds.

    This is a fraction of whole numbers up to a million, or the root of a smaller one, times or by pi or not, if one of
    these is as near as a unit in the last place; else, as every float is a fraction, itself.
    """
    if isinstance(x, sympy.Expr):
        return x
    if not isinstance(x, float | np.floating):
        return sympy.Integer(int(x))
    if not math.isfinite(x):
        return sympy.nan if math.isnan(x) else sympy.oo if x > 0 else -sympy.oo
    x = float(x)
    simple = Fraction(x).limit_denominator(10**6)
    if math.isclose(simple, x, rel_tol=2**-52):
        return sympy.Rational(simple.numerator, simple.denominator)
    for factor in (sympy.Integer(1), sympy.pi, 1 / sympy.pi):
        square = Fraction(x * x / float(factor)).limit_denominator(1000)
        root = sympy.sqrt(sympy.Rational(square.numerator, square.denominator) * factor)
        if math.isclose(float(root), abs(x), rel_tol=2**-52):
            return root if x > 0 else -root
    return sympy.Rational(Fraction(x).numerator, Fraction(x).denominator)


class Symbols(np.ndarray):
    """An array of SymPy's expressions, float64 to who asks, on which NumPy's functions compute."""

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float64)

    def astype(self, dtype, **_) -> "Symbols":
        if np.dtype(dtype).kind != "f":
            raise TypeError(f"symbols are no {np.dtype(dtype)}")
        return self.copy()

    def erfc(self) -> "Symbols":
        return _symbolic(np.frompyfunc(sympy.erfc, 1, 1)(_expressions(self)))

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, dtype=None, casting=None, subok=None, **options):
        if method == "at":  # in place
            target, index, *values = inputs
            getattr(ufunc, method)(target.view(np.ndarray), index, *map(_expressions, values))
            return None
        name, inputs = ufunc.__name__, [_expressions(x) for x in inputs]
        if method == "reduce" and name in FUNCTIONS:
            result = _reduce(FUNCTIONS[name], *inputs, **options)
        elif name in COMPARISONS:
            result = np.frompyfunc(COMPARISONS[name], len(inputs), 1)(*inputs)
            return np.asarray(result, dtype=bool)
        else:
            ufunc = np.frompyfunc(FUNCTIONS[name], len(inputs), 1) if name in FUNCTIONS else ufunc
            result = getattr(ufunc, method)(*inputs, **options)
        if out is not None:
            out[0].view(np.ndarray)[...] = result
            return out[0]
        return _symbolic(result)

    def __array_function__(self, function, types, args, kwargs):
        result = super().__array_function__(function, types, args, kwargs)
        return [_symbolic(x) for x in result] if isinstance(result, list) else _symbolic(result)


def _expressions(x) -> np.ndarray:
    """x as a plain array of exact expressions."""
    return np.asarray(np.frompyfunc(exact, 1, 1)(np.asarray(x, dtype=object).view(np.ndarray)), dtype=object)


def _elements(x) -> list[sympy.Expr]:
    return _expressions(x).ravel().tolist()


def _symbolic(x):
    """A result of NumPy's: Symbols where it holds expressions, or floats, which may become such."""
    if isinstance(x, sympy.Basic):
        x = np.asarray(x, dtype=object)
    if isinstance(x, np.ndarray) and not isinstance(x, Symbols) and x.dtype.kind in "fO":
        return x.astype(object).view(Symbols)
    return x


def _reduce(function: Callable, x: np.ndarray, axis=0, keepdims=False, **_) -> np.ndarray:
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis) % x.ndim
    for each in sorted(axes, reverse=True):
        x = np.asarray(np.frompyfunc(function, 2, 1).reduce(x, axis=each, keepdims=keepdims), dtype=object)
    return x


# Comparisons


def _number(x: sympy.Expr) -> sympy.Expr:
    """x at the symbols' values, to many digits."""
    return sympy.N(x.xreplace({variable: variable.value for variable in x.free_symbols}), DIGITS)


def _sign(x: sympy.Expr, y: sympy.Expr = sympy.S.Zero) -> int:
    """Of x - y, at the symbols' values: 1 or -1; or 0 if x and y are the same expression."""
    if x == y:
        return 0
    difference = _number(x - y)
    if abs(difference) < NOTHING:
        if vanishes(x - y):
            return 0
        raise UserError(f"{x} and {y} are equal at the symbols' values: derivatives may end there; choose others")
    condition = x > y if difference > 0 else x < y
    if condition != sympy.true:  # as it is between numbers
        _region.get({})[condition] = None
    return 1 if difference > 0 else -1


def _larger(x, y):
    return x if _sign(x, y) >= 0 else y


def _smaller(x, y):
    return y if _sign(x, y) > 0 else x


# By the names of the ufuncs, since that of `clip` is not public
COMPARISONS = {
    "greater": lambda x, y: _sign(x, y) > 0,
    "greater_equal": lambda x, y: _sign(x, y) >= 0,
    "less": lambda x, y: _sign(x, y) < 0,
    "less_equal": lambda x, y: _sign(x, y) <= 0,
    "equal": lambda x, y: _sign(x, y) == 0,
    "not_equal": lambda x, y: _sign(x, y) != 0,
    "isfinite": lambda x: not x.is_infinite,
    "isinf": lambda x: bool(x.is_infinite),
    "isnan": lambda x: x is sympy.nan,
    "signbit": lambda x: _sign(x) < 0,
}
FUNCTIONS = {
    "maximum": _larger,
    "minimum": _smaller,
    "clip": lambda x, low, high: _smaller(_larger(x, low), high),
    "absolute": lambda x: x if _sign(x) >= 0 else -x,
    "sign": lambda x: sympy.Integer(_sign(x)),
    "exp": sympy.exp,
    "expm1": lambda x: sympy.exp(x) - 1,
    "log": sympy.log,
    "log1p": lambda x: sympy.log(1 + x),
    "sqrt": sympy.sqrt,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "arctan": sympy.atan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
}
