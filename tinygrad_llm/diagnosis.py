"""What is wrong with a wrong gradient: fitted to the right one, not guessed.

Each hypothesis is a formula with few free numbers: "expected times c", "expected plus a number for each row". Its
numbers are fitted by least squares, and it is believed if it then explains the error but for a small part, of more
elements than it has free numbers. The simplest that does is told; where none does, nothing is.
"""

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

TOLERANCE = 1e-4  # the part of the error, by its length, that a formula may leave unexplained
SPARE = 3  # elements that there must be beyond the free numbers

Hypothesis = tuple[str, np.ndarray]  # in words, and the gradient that it would give


def diagnose(
    got: np.ndarray, expected: np.ndarray, arrays: dict[str, object] | None = None, others: dict | None = None
) -> str | None:
    """What turns the gradient `expected` into `got`, in a few words, or None if no simple formula does.

    arrays: by name what the formula is made of: the inputs, of any kind; the result; and as the last its gradient.
    others: by name the right gradients of the other inputs, which may have been taken for this one.
    """
    if not np.isfinite(got).all():
        return f"it is not finite at {np.sum(~np.isfinite(got))} of {got.size} elements"
    if got.shape != expected.shape or not np.isfinite(expected).all() or np.array_equal(got, expected):
        return None
    if not got.any():
        return "it is zero: it never arrives"
    error = np.linalg.norm(got - expected)
    for words, formula in _hypotheses(got, expected, arrays or {}, others or {}):
        if formula.shape == got.shape and _explains(got, formula, error):
            return words
    return None


def _explains(got: np.ndarray, formula: np.ndarray, error: float) -> bool:
    return bool(np.linalg.norm(got - formula) <= TOLERANCE * error)


def _hypotheses(got: np.ndarray, expected: np.ndarray, arrays: dict, others: dict) -> Iterator[Hypothesis]:
    """From the simplest on. `difference` is what the formula has too much."""
    difference = got - expected
    yield from _factor(got, expected, arrays)
    yield from ((f"it is the gradient of {name}: are two swapped?", right) for name, right in others.items())
    yield from _places(got, expected)
    yield from _repeated(expected, arrays)
    yield from _masks(got, expected)
    same = {
        name: x.astype(np.float64)
        for name, x in arrays.items()
        if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.shape == got.shape
    }
    yield from _factors_of(got, expected, same)
    yield from _factor_somewhere(got, expected)
    yield from _factor_for_each(got, expected)
    yield from _terms(difference, expected, same)
    yield from _terms_for_each(difference, expected, same)
    yield from _products(got, same)
    yield from _somewhere(got, expected)


def _factor(got, expected, arrays) -> Iterator[Hypothesis]:
    (c,), formula = fit(got, [expected], spare=0)
    length, few = _length(c, got, arrays), got.size < SPARE
    if abs(c + 1) <= TOLERANCE:
        yield "the sign is wrong", formula
    elif abs(c) > TOLERANCE and (length or not few or _simple(c)):  # any number is some multiple of any other
        yield f"it is off by a factor of {_number(c)}{length}", formula
    for dtype in ("float32", "float16"):
        yield f"it is rounded to {dtype}", expected.astype(dtype).astype(expected.dtype)


def _length(c: float, got: np.ndarray, arrays: dict) -> str:
    """Where the factor is the length of an axis, or one over it, or of several: which."""
    for name, x in {"the gradient": got, **arrays}.items():
        shape = np.shape(x) if isinstance(x, np.ndarray) else ()
        lengths = {n: f"the length of axis {axis} of {name}" for axis, n in enumerate(shape)}
        lengths[int(np.prod(shape))] = f"the number of elements of {name}"
        for n, words in lengths.items():
            if n > 2 and abs(abs(c) - n) <= TOLERANCE * n:
                return f", {words}: a sum for a mean?"
            if n > 2 and abs(abs(c) * n - 1) <= TOLERANCE:
                return f", one over {words}: a mean for a sum?"
    return ""


def _places(got, expected) -> Iterator[Hypothesis]:
    """The right numbers in wrong places."""
    for i, j in itertools.combinations(range(got.ndim), 2):
        yield f"it is transposed: axes {i} and {j} are swapped", expected.swapaxes(i, j)
    for axis in range(got.ndim):
        yield f"it is reversed along {_axis(axis, got)}", np.flip(expected, axis)
    if got.ndim > 1:
        yield "its elements are in column-major order", expected.reshape(got.shape, order="F")
        yield "its elements are in column-major order", expected.ravel(order="F").reshape(got.shape)
    if got.size > SPARE:
        order = np.argsort(np.argsort(got, axis=None), axis=None)
        yield "it has the right numbers in wrong places", np.sort(expected, axis=None)[order].reshape(got.shape)


def _repeated(expected, arrays) -> Iterator[Hypothesis]:
    """`dx[index] += dy` where np.add.at is meant."""
    dy = next(reversed(arrays.values()), None)
    for name, index in arrays.items():
        words = f"only the last of repeated indices in {name} is counted"
        for place in (_index, *(_along(axis) for axis in range(expected.ndim))):
            last, all_of_them = np.zeros_like(expected), np.zeros_like(expected)
            try:
                where = place(index, expected.shape)
                last[where] = dy
                np.add.at(all_of_them, where, dy)
            except (IndexError, TypeError, ValueError):
                continue  # no index
            all_of_them[expected == 0] = 0  # as at a padding
            if np.allclose(all_of_them, expected, rtol=TOLERANCE, atol=TOLERANCE * np.abs(expected).max()):
                yield words, np.where(expected == 0, 0, last)


def _index(index, shape):
    if isinstance(index, np.ndarray) and index.dtype.kind not in "iub":
        raise TypeError("no index")
    return index


def _along(axis: int):
    def place(index, shape):
        """As numpy.take_along_axis."""
        if not isinstance(index, np.ndarray) or index.dtype.kind not in "iu" or index.ndim != len(shape):
            raise TypeError("no index")
        places = list(np.indices(index.shape))
        places[axis] = index
        return tuple(places)

    return place


def _masks(got, expected) -> Iterator[Hypothesis]:
    if expected.any() and not expected.all():
        stopped = np.where(expected == 0, 0, got)
        if _explains(stopped, expected, np.linalg.norm(got - expected)):
            yield f"it is not zero at {np.sum(got != stopped)} elements where it must be: is a mask missing?", got
    if not got.all():
        kept = np.where(got == 0, expected, got)
        if _explains(kept, expected, np.linalg.norm(got - expected)):
            yield f"it is zero at {np.sum(kept != got)} of {got.size} elements where it must not be", got


def _factors_of(got, expected, same) -> Iterator[Hypothesis]:
    """c expected u^p v^q."""
    with np.errstate(all="ignore"):
        powers = {(name, p): x**p for name, x in same.items() for p in (1, -1, 2, -2)}
        powers |= {(f"exp({name})", p): _exp(p * x) for name, x in same.items() for p in (1, -1)}
        powers |= {(f"(1 {s} {name})", p): (1 + (s == "+") * x - (s == "-") * x) ** p
                   for name, x in same.items() for s in "+-" for p in (1, -1)}  # fmt: skip
        for count in (1, 2):
            for chosen in itertools.combinations(powers, count):
                if len({name for name, _ in chosen}) < count or (count == 2 and any("(" in name for name, _ in chosen)):
                    continue
                formula = expected * np.prod([powers[key] for key in chosen], axis=0)
                if np.isfinite(formula).all() and formula.any():
                    (c,), fitted = fit(got, [formula])
                    yield _factor_words(c, chosen), fitted


def _factor_words(c: float, chosen: tuple) -> str:
    much = " ".join(_power(name, p) for name, p in chosen if p > 0)
    little = " ".join(_power(name, -p) for name, p in chosen if p < 0)
    said = [f"misses a factor of {little}"] * bool(little) + [f"has a factor of {much} too much"] * bool(much)
    also = "" if abs(c - 1) <= TOLERANCE else f", and is off by {_number(c)} besides"
    return f"it {' and '.join(said)}{also}"


def _factor_for_each(got, expected) -> Iterator[Hypothesis]:
    for axis in _axes(got):
        _, formula = fit(got, [expected], axis)
        yield f"it is off by a factor that is constant along {_axis(axis, got)}", formula


def _terms(difference, expected, same) -> Iterator[Hypothesis]:
    """expected + c u v w, of what there is."""
    names = {**same, **{f"exp({name})": _exp(x) for name, x in same.items()}}
    (c,), formula = fit(difference, [np.ones_like(difference)])
    yield f"it misses the constant {_number(-c)}", expected + formula
    for count in (1, 2, 3):
        for chosen in itertools.combinations_with_replacement(names, count):
            (c,), formula = fit(difference, [np.prod([names[name] for name in chosen], axis=0)])
            yield f"it misses the term {_number(-c)} {' '.join(chosen)}", expected + formula


def _terms_for_each(difference, expected, same) -> Iterator[Hypothesis]:
    """expected + c, or c u, or c + d u, where the numbers c and d are others for each row, say."""
    ones = np.ones_like(difference)
    for axis in _axes(difference):
        _, formula = fit(difference, [ones], axis)
        yield f"it misses a term that is constant along {_axis(axis, difference)} (a mean?)", expected + formula
    for axis, (name, x) in itertools.product(_axes(difference), same.items()):
        _, formula = fit(difference, [x], axis)
        along = f"along {_axis(axis, difference)}"
        yield f"it misses a term that is {along} a multiple of {name} (a projection?)", expected + formula
    for axis, (name, x) in itertools.product(_axes(difference), same.items()):
        along = f"along {_axis(axis, difference)}"
        _, formula = fit(difference, [_exp(x)], axis)
        yield f"it misses a term that is {along} a multiple of exp({name})", expected + formula
        _, formula = fit(difference, [ones, x], axis)
        yield f"it misses a term that is {along} a constant and a multiple of {name}", expected + formula
        _, formula = fit(difference, [x, _exp(x)], axis)
        yield f"it misses a term that is {along} a multiple of {name} and one of exp({name})", expected + formula


def _products(got, same) -> Iterator[Hypothesis]:
    for count in (1, 2, 3):
        for chosen in itertools.combinations_with_replacement(same, count):
            (c,), formula = fit(got, [np.prod([same[name] for name in chosen], axis=0)])
            yield f"it is {_number(c)} {' '.join(chosen)}, and nothing else", formula


def _factor_somewhere(got, expected) -> Iterator[Hypothesis]:
    wrong, where, _ = _wrong(got, expected)
    if where:
        (c,), _ = fit(got[wrong], [expected[wrong]], spare=0)
        formula = np.where(wrong, c * expected, got)
        if abs(c + 1) <= TOLERANCE:
            yield f"the sign is wrong {where}", formula
        elif wrong.sum() > SPARE or _simple(c):
            yield f"it is off by a factor of {_number(c)} {where}", formula


def _somewhere(got, expected) -> Iterator[Hypothesis]:
    wrong, where, in_a_row = _wrong(got, expected)
    if where and (in_a_row or wrong.mean() <= 0.5):
        yield f"it is wrong {where}", got


def _wrong(got, expected) -> tuple[np.ndarray, str, bool]:
    """Where it is wrong, in words if not everywhere, and whether those are neighbors along an axis."""
    wrong = np.abs(got - expected) > 1e-6 * np.abs(expected).max()
    if wrong.all() or not wrong.any():
        return wrong, "", False
    if wrong.sum() == 1:
        return wrong, f"only at {np.argwhere(wrong)[0].tolist()}", True
    for axis in reversed(range(got.ndim)):
        indices = np.flatnonzero(wrong.any(axis=tuple(i for i in range(got.ndim) if i != axis)))
        if len(indices) < got.shape[axis] and len(indices) == indices[-1] - indices[0] + 1:
            span = f"index {indices[0]}" if len(indices) == 1 else f"indices {indices[0]} to {indices[-1]}"
            return wrong, f"only at {span} of {_axis(axis, got)}", True
    return wrong, f"at {wrong.sum()} of {got.size} elements alone", False


def fit(target: np.ndarray, basis: list[np.ndarray], axis: int | None = None, spare: int = SPARE) -> tuple:
    """Coefficients of the basis by least squares, for all elements or each line along the axis, and what they give.

    Not a number where there are too few elements for so many coefficients.
    """
    lines = 1 if axis is None else target.size // target.shape[axis]
    if target.size < lines * len(basis) + spare:
        return (np.nan,) * len(basis), np.full(target.shape, np.nan)
    move = (lambda x: x.reshape(1, -1)) if axis is None else (lambda x: np.moveaxis(x, axis, -1).reshape(lines, -1))
    columns = np.stack([move(x) for x in basis], axis=-1)  # (lines, elements, coefficients)
    size = np.sqrt((columns**2).sum(axis=1, keepdims=True))
    if not np.isfinite(size).all():
        return (np.nan,) * len(basis), np.full(target.shape, np.nan)
    columns = columns / np.where(size == 0, 1, size)
    normal = columns.swapaxes(1, 2) @ columns
    coefficients = (np.linalg.pinv(normal, 1e-12) @ (columns.swapaxes(1, 2) @ move(target)[..., None]))[..., 0]
    fitted = np.einsum("lec,lc->le", columns, coefficients)
    coefficients = coefficients / np.where(size == 0, 1, size)[:, 0]
    if axis is None:
        return tuple(coefficients[0]), fitted.reshape(target.shape)
    others = target.shape[:axis] + target.shape[axis + 1 :]
    return coefficients, np.moveaxis(fitted.reshape(*others, -1), -1, axis)


def _axes(x: np.ndarray) -> list[int]:
    """Those that are no lines of one element, the last one first."""
    return [axis for axis in reversed(range(x.ndim)) if x.shape[axis] > 1]


def _axis(axis: int, x: np.ndarray) -> str:
    return "the last axis" if axis == x.ndim - 1 else f"axis {axis}"


def _exp(x: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(x, 700))


def _power(name: str, p: int) -> str:
    return name if p == 1 else f"{name}^{p}"


def _number(c: float) -> str:
    """To four digits, and as a fraction where it is a simple one."""
    if not np.isfinite(c):
        return "no number"
    fraction = Fraction(c).limit_denominator(12)
    return f"{c:#.4g}" + (f" ({fraction})" if _simple(c) and fraction.denominator > 1 else "")


def _simple(c: float) -> bool:
    """Whether it is a fraction of small numbers."""
    fraction = Fraction(c).limit_denominator(12) if np.isfinite(c) else 0
    return bool(0 < abs(fraction) <= 12 and abs(fraction - c) <= 1e-6 * abs(c))
