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
    loss = _Loss(function.apply if isinstance(function, type) else function, inputs, eps, seed)
    exact = torch is not None or loss.analytic()
    rtol = (1e-9 if exact else 1e-5) if rtol is None else rtol
    atol = (1e-11 if exact else 1e-7) if atol is None else atol

    def agree(ours, right, size: float = 0.0):
        return np.abs(ours - right) <= atol + rtol * np.maximum(np.maximum(np.abs(ours), np.abs(right)), size)

    if torch:
        _compare_with_torch(loss, torch, agree)
    else:
        _compare_with_slopes(loss, exact, agree, max_elements)
    return True


class _Loss:
    """L = sum(w y) of a function's inputs: its gradients by one walk back, and its slope in any direction."""

    def __init__(self, function: Callable, inputs: tuple, eps: float, seed: int):
        self.floats = [isinstance(x, Tensor | np.ndarray) and x.dtype.kind == "f" for x in inputs]
        if any(is_float and x.dtype != np.float64 for is_float, x in zip(self.floats, inputs, strict=True)):
            raise TypeError("gradcheck needs float64 inputs: in float32, rounding hides what finite differences show")
        self.checked = [
            i for i, x in enumerate(inputs) if self.floats[i] and (isinstance(x, np.ndarray) or x.requires_grad)
        ]
        if not self.checked:
            raise TypeError("gradcheck needs an input that requires a gradient: a float64 array, or such a Tensor")
        self.function, self.eps, self.random = function, eps, np.random.default_rng(seed)
        self.inputs = [np.array(x) if is_float else x for is_float, x in zip(self.floats, inputs, strict=True)]
        tensors = [
            Tensor(x.copy(), requires_grad=i in self.checked) if self.floats[i] else x
            for i, x in enumerate(self.inputs)
        ]
        y = function(*tensors)
        self.result = y.data
        self.weights = self.random.normal(size=y.shape)
        y.backward(self.weights)
        given = {i: tensors[i].grad for i in self.checked}
        self.gradients = {i: np.zeros_like(self.inputs[i]) if dx is None else dx for i, dx in given.items()}
        self.along = {i: self.random.normal(size=self.inputs[i].shape) for i in self.checked}

    def moved(self, direction: dict[int, np.ndarray], step: complex) -> np.ndarray:
        """The result where the inputs are changed so."""
        inputs = enumerate(zip(self.floats, self.inputs, strict=True))
        moved = (Tensor(x + step * direction.get(i, 0)) if is_float else x for i, (is_float, x) in inputs)
        return self.function(*moved).data

    def central(self, direction: dict[int, np.ndarray]) -> float:
        up, down = self.moved(direction, self.eps), self.moved(direction, -self.eps)
        return float((self.weights * up - self.weights * down).sum() / (2 * self.eps))

    def complex_step(self, direction: dict[int, np.ndarray]) -> float:
        return float((self.weights * self.moved(direction, SMALL * 1j).imag).sum() / SMALL)

    def analytic(self) -> bool:
        """Whether the complex step gives what central differences give, and the function the same as before."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error")  # that an imaginary part is thrown away
                same = np.allclose(self.moved(self.along, SMALL * 1j).real, self.result, rtol=1e-12)
                size = sum(np.abs(self.gradients[i] * self.along[i]).sum() for i in self.checked)
                return same and abs(self.complex_step(self.along) - self.central(self.along)) <= 1e-6 * size
        except Exception:  # whatever a function of real numbers does with complex ones
            return False

    def one(self, i: int, index: tuple[int, ...]) -> dict[int, np.ndarray]:
        """The direction of a single element."""
        unit = np.zeros_like(self.inputs[i])
        unit[index] = 1
        return {i: unit}

    def whole(self, slope: Callable) -> dict[int, np.ndarray]:
        """The right gradients of the inputs that are not too large."""
        small = [(i, self.inputs[i]) for i in self.checked if self.inputs[i].size <= WHOLE]
        return {
            i: np.array([slope(self.one(i, index)) for index in np.ndindex(x.shape)]).reshape(x.shape) for i, x in small
        }

    def suspicious(self, i: int, right: dict[int, np.ndarray]) -> str:
        """What is wrong with the gradient of an input, or is another's, where the right ones are known."""
        if i not in right:
            return ""
        called = _names(self.function, self.inputs)
        made_of = dict(zip(called, self.inputs, strict=True))
        y = "z" if "y" in made_of else "y"
        others = {called[j]: dx for j, dx in right.items() if j != i}
        words = diagnose(self.gradients[i], right[i], made_of | {y: self.result, f"d{y}": self.weights}, others)
        return f": {words}" if words else ""


def _compare_with_slopes(loss: _Loss, exact: bool, agree: Callable, max_elements: int) -> None:
    slope = loss.complex_step if exact else loss.central
    source, gives = ("the complex step", "gives") if exact else ("finite differences", "give")
    for i in loss.checked:
        shape = loss.inputs[i].shape
        for k in loss.random.permutation(loss.inputs[i].size)[:max_elements]:
            index = tuple(int(j) for j in np.unravel_index(k, shape))
            ours, right = float(loss.gradients[i][index]), slope(loss.one(i, index))
            if not agree(ours, right):
                raise GradientError(
                    f"the gradient of input {i} at {list(index)} is {ours:.8g}, {source} {gives} "
                    f"{right:.8g}{loss.suspicious(i, loss.whole(slope))}"
                )
    ours, right = float(sum((dx * loss.along[i]).sum() for i, dx in loss.gradients.items())), slope(loss.along)
    if not agree(ours, right, float(np.sqrt(sum((dx**2).sum() for dx in loss.gradients.values())))):
        expected = loss.whole(slope)
        said = [f"; input {i}{words}" for i in loss.checked if (words := loss.suspicious(i, expected))]
        raise GradientError(
            f"along a random direction of inputs {loss.checked} the gradient gives {ours:.8g}, {source} {right:.8g}; "
            f"the {max_elements} elements of each that were tried one by one agree{''.join(said)}"
        )


def _compare_with_torch(loss: _Loss, function: Callable, agree: Callable) -> None:
    from tinygrad_llm.reference import Oracle  # which imports PyTorch

    def output_gradient(shape: tuple[int, ...]) -> np.ndarray:
        if shape != loss.result.shape:
            raise GradientError(f"the result has shape {loss.result.shape}, torch's {shape}")
        return loss.weights

    inputs = [np.asarray(x) if isinstance(x, Tensor) else x for x in loss.inputs]
    theirs, gradients = Oracle("", function, ()).run(inputs, {}, "float64", output_gradient)
    if not np.allclose(loss.result, theirs, rtol=1e-9, atol=1e-11, equal_nan=True):
        index = np.unravel_index(np.argmax(np.abs(loss.result - theirs)), theirs.shape)
        words = diagnose(loss.result, theirs)
        raise GradientError(
            f"the result at {[int(i) for i in index]} is {loss.result[index]:.8g}, torch gives {theirs[index]:.8g}"
            + (f": {words}" if words else "")
        )
    right = {i: np.zeros_like(inputs[i]) if gradients[i] is None else gradients[i] for i in loss.checked}
    for i, dx in right.items():
        wrong = np.argwhere(~agree(loss.gradients[i], dx)).tolist()
        if wrong:
            index = tuple(wrong[0])
            raise GradientError(
                f"the gradient of input {i} at {wrong[0]} is {loss.gradients[i][index]:.8g}, torch gives "
                f"{dx[index]:.8g}{loss.suspicious(i, right)}"
            )


def _names(function: Callable, inputs: list) -> list[str]:
    """What the function calls its inputs; their numbers where it does not say."""
    forward = getattr(getattr(function, "__self__", function), "forward", function)
    try:
        names = [name for name in inspect.signature(forward).parameters if name != "ctx"]
    except (TypeError, ValueError):
        names = []
    return [*names, *(f"input {i}" for i in range(len(names), len(inputs)))][: len(inputs)]
