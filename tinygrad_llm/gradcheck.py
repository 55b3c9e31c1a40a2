"""Is a derivative right, and what is wrong with it? For the reader's own functions too."""

import inspect
import warnings
from collections.abc import Callable

import numpy as np

from tinygrad_llm.autograd import Function
from tinygrad_llm.diagnosis import diagnose
from tinygrad_llm.tensor import Tensor

SMALL = 1e-20  # of the complex step
WHOLE = 2000  # elements of an input whose gradient is computed whole, to say what is wrong with it


class GradientError(AssertionError):
    """A gradient that is wrong: which input's, at which index, both numbers, and what formula is suspicious."""


def gradcheck(
    function: Callable[..., Tensor] | type[Function],
    *inputs,
    torch: Callable | None = None,
    eps: float = 1e-6,
    rtol: float | None = None,
    atol: float | None = None,
    max_elements: int = 64,
    seed: int = 0,
) -> bool:
    """Check the gradients of `function(*inputs)`, or of a `Function` class, and return True.

    The result y is weighted by random numbers w, so that one walk back gives every gradient of L = sum(w y). They are
    compared with those that PyTorch gives of `torch(*inputs)`, a function of its tensors, if there is one, else:

    1. along a random direction u of all inputs together, the slope of L must equal the sum of gradient times u: two
       evaluations that any wrong element disturbs, however many there are;
    2. the same for single elements, up to `max_elements` of each input, to say where a gradient is wrong.

    The slope is Im L(x + ihu) / h where the function takes complex arrays and is analytic (Squire & Trapp 1998,
    doi:10.1137/S003614459631241X): nothing cancels, so it is exact. Else it is (L(x + eps u) - L(x - eps u)) / 2 eps.

    inputs: float64 Tensors that require a gradient, or arrays of which such are made; anything else is passed on.
    rtol, atol: by default 1e-5 and 1e-7 beside central differences, 1e-9 and 1e-11 beside what is exact.
    Raises GradientError with the input, the index, both numbers, and the formula that turns the right gradient into
    the wrong one, where a simple one fits; and TypeError where nothing can be checked: in float32, rounding hides
    what differences show.
    """
    if isinstance(function, type):
        function = function.apply
    floats = [isinstance(x, Tensor | np.ndarray) and x.dtype.kind == "f" for x in inputs]
    if any(is_float and x.dtype != np.float64 for is_float, x in zip(floats, inputs, strict=True)):
        raise TypeError("gradcheck needs float64 inputs: in float32, rounding hides what finite differences show")
    checked = [i for i, x in enumerate(inputs) if floats[i] and (isinstance(x, np.ndarray) or x.requires_grad)]
    if not checked:
        raise TypeError("gradcheck needs an input that requires a gradient: a float64 array, or such a Tensor")

    arrays = [np.array(x) if floats[i] else x for i, x in enumerate(inputs)]
    tensors = [Tensor(x.copy(), requires_grad=i in checked) if floats[i] else x for i, x in enumerate(arrays)]
    y = function(*tensors)
    result = y.data
    random = np.random.default_rng(seed)
    weights = random.normal(size=y.shape)
    y.backward(weights)
    gradients = {i: np.zeros_like(arrays[i]) if tensors[i].grad is None else tensors[i].grad for i in checked}
    along = {i: random.normal(size=arrays[i].shape) for i in checked}

    def moved(direction: dict[int, np.ndarray], step: complex) -> np.ndarray:
        """The result where the inputs are changed so."""
        return function(
            *(Tensor(x + step * direction.get(i, 0)) if floats[i] else x for i, x in enumerate(arrays))
        ).data

    def central(direction: dict[int, np.ndarray]) -> float:
        return float((weights * moved(direction, eps) - weights * moved(direction, -eps)).sum() / (2 * eps))

    def complex_step(direction: dict[int, np.ndarray]) -> float:
        return float((weights * moved(direction, SMALL * 1j).imag).sum() / SMALL)

    def analytic() -> bool:
        """Whether the complex step gives what central differences give, and the function the same as before."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error")  # that an imaginary part is thrown away
                same = np.allclose(moved(along, SMALL * 1j).real, result, rtol=1e-12)
                size = sum(np.abs(gradients[i] * along[i]).sum() for i in checked)
                return same and abs(complex_step(along) - central(along)) <= 1e-6 * size
        except Exception:  # whatever a function of real numbers does with complex ones
            return False

    if torch:
        source, exact = "torch gives", True
        expected = _by_torch(torch, inputs, checked, arrays, result, weights)
        slope = None
    else:
        exact = analytic()
        source = "the complex step gives" if exact else "finite differences give"
        slope = complex_step if exact else central
    rtol = (1e-9 if exact else 1e-5) if rtol is None else rtol
    atol = (1e-11 if exact else 1e-7) if atol is None else atol

    def agree(ours, right, size: float = 0.0):
        return np.abs(ours - right) <= atol + rtol * np.maximum(np.maximum(np.abs(ours), np.abs(right)), size)

    def element(i: int, index: tuple[int, ...]) -> float:
        unit = np.zeros_like(arrays[i])
        unit[index] = 1
        return slope({i: unit})

    def whole(i: int) -> np.ndarray | None:
        """The right gradient of an input, if it is not too large."""
        if torch:
            return expected[i]
        if arrays[i].size > WHOLE:
            return None
        return np.array([element(i, index) for index in np.ndindex(arrays[i].shape)]).reshape(arrays[i].shape)

    def suspicious(i: int) -> str:
        """What is wrong with the gradient of an input, and which others are wrong too."""
        right = {j: whole(j) for j in checked}
        if right[i] is None:
            return ""
        called = _names(function, inputs)
        made_of = {name: arrays[j] for j, name in enumerate(called)}
        y_name = "z" if "y" in made_of else "y"
        others = {called[j]: x for j, x in right.items() if j != i and x is not None}
        words = diagnose(gradients[i], right[i], made_of | {y_name: result, f"d{y_name}": weights}, others)
        return f": {words}" if words else ""

    for i in checked:
        if torch:
            wrong = ~agree(gradients[i], expected[i])
            tried = [tuple(index) for index in np.argwhere(wrong).tolist()[:1]]
        else:
            flat = random.permutation(arrays[i].size)[:max_elements]
            tried = [tuple(int(j) for j in np.unravel_index(k, arrays[i].shape)) for k in flat]
        for index in tried:
            ours, right = float(gradients[i][index]), float(expected[i][index] if torch else element(i, index))
            if not agree(ours, right):
                raise GradientError(
                    f"the gradient of input {i} at {list(index)} is {ours:.8g}, {source} {right:.8g}{suspicious(i)}"
                )
    if torch:
        return True
    ours, right = float(sum((gradients[i] * along[i]).sum() for i in checked)), slope(along)
    if not agree(ours, right, float(np.sqrt(sum((gradients[i] ** 2).sum() for i in checked)))):
        said = [f"; input {i}{words}" for i in checked if (words := suspicious(i))]
        raise GradientError(
            f"along a random direction of inputs {checked} the gradient gives {ours:.8g}, {source.rsplit(' ', 1)[0]} "
            f"{right:.8g}; the {max_elements} elements of each that were tried one by one agree{''.join(said)}"
        )
    return True


def _by_torch(function, inputs, checked, arrays, result, weights) -> dict[int, np.ndarray]:
    """PyTorch's gradients. Raises GradientError where its result is another."""
    import torch

    tensors = [
        torch.tensor(x if isinstance(x, np.ndarray) else np.asarray(x), requires_grad=i in checked)
        if isinstance(x, np.ndarray | Tensor)
        else x
        for i, x in enumerate(arrays)
    ]
    y = function(*tensors)
    if tuple(y.shape) != result.shape:
        raise GradientError(f"the result has shape {result.shape}, torch's {tuple(y.shape)}")
    theirs = y.detach().numpy()
    if not np.allclose(result, theirs, rtol=1e-9, atol=1e-11, equal_nan=True):
        index = np.unravel_index(np.argmax(np.abs(result - theirs)), result.shape)
        at = [int(i) for i in index]
        words = diagnose(result, theirs)
        raise GradientError(
            f"the result at {at} is {result[index]:.8g}, torch gives {theirs[index]:.8g}"
            + (f": {words}" if words else "")
        )
    y.backward(torch.tensor(weights))
    return {i: np.zeros_like(arrays[i]) if tensors[i].grad is None else tensors[i].grad.numpy() for i in checked}


def _names(function: Callable, inputs: tuple) -> list[str]:
    """What the function calls its inputs; their numbers where it does not say."""
    forward = getattr(getattr(function, "__self__", function), "forward", function)
    try:
        names = [name for name in inspect.signature(forward).parameters if name != "ctx"]
    except (TypeError, ValueError):
        names = []
    return [*names, *(f"input {i}" for i in range(len(names), len(inputs)))][: len(inputs)]
