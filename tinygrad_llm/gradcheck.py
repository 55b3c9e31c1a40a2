"""Is a derivative right? Finite differences and random projections, for the reader's own functions too."""

from collections.abc import Callable

import numpy as np

from tinygrad_llm.tensor import Tensor


class GradientError(AssertionError):
    """A gradient that differs from finite differences: which input, at which index, and both numbers."""


def gradcheck(
    function: Callable[..., Tensor],
    *inputs,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    max_elements: int = 64,
    seed: int = 0,
) -> bool:
    """Check the gradients of `function(*inputs)` against central differences, and return True.

    The result y is weighted by random numbers w, so that one walk back gives every gradient of L = sum(w y):

    1. along a random direction u of all inputs together, (L(x + eps u) - L(x - eps u)) / 2 eps must equal the sum of
       gradient times u: two evaluations that any wrong element disturbs, however many there are;
    2. the same for single elements, up to `max_elements` of each input, to say where a gradient is wrong.

    inputs: float64 Tensors that require a gradient, or arrays of which such are made; anything else is passed on.
    Raises GradientError with the input, the index and both numbers, and TypeError where nothing can be checked:
    in float32, rounding hides what finite differences show.
    """
    floats = [isinstance(x, Tensor | np.ndarray) and x.dtype.kind == "f" for x in inputs]
    if any(is_float and x.dtype != np.float64 for is_float, x in zip(floats, inputs, strict=True)):
        raise TypeError("gradcheck needs float64 inputs: in float32, rounding hides what finite differences show")
    checked = [i for i, x in enumerate(inputs) if floats[i] and (isinstance(x, np.ndarray) or x.requires_grad)]
    if not checked:
        raise TypeError("gradcheck needs an input that requires a gradient: a float64 array, or such a Tensor")

    arrays = [np.array(x) if floats[i] else x for i, x in enumerate(inputs)]
    tensors = [Tensor(x.copy(), requires_grad=i in checked) if floats[i] else x for i, x in enumerate(arrays)]
    y = function(*tensors)
    random = np.random.default_rng(seed)
    weights = random.normal(size=y.shape)
    y.backward(weights)
    gradients = {i: np.zeros_like(arrays[i]) if tensors[i].grad is None else tensors[i].grad for i in checked}

    def slope(direction: dict[int, np.ndarray]) -> float:
        """Of L along the direction: the change of each input."""

        def value(step: float) -> float:
            moved = [x + step * direction[i] if i in direction else x for i, x in enumerate(arrays)]
            y = function(*[Tensor(x) if floats[i] else x for i, x in enumerate(moved)])
            return (weights * y.data).sum()

        return (value(eps) - value(-eps)) / (2 * eps)

    def agree(analytic: float, numeric: float, size: float) -> bool:
        return abs(analytic - numeric) <= atol + rtol * max(abs(analytic), abs(numeric), size)

    for i in checked:
        count = arrays[i].size
        for flat in random.permutation(count)[:max_elements]:
            index = tuple(int(j) for j in np.unravel_index(flat, arrays[i].shape))
            unit = np.zeros_like(arrays[i])
            unit[index] = 1
            analytic, numeric = float(gradients[i][index]), float(slope({i: unit}))
            if not agree(analytic, numeric, 0.0):
                raise GradientError(
                    f"the gradient of input {i} at {list(index)} is {analytic:.8g}, "
                    f"finite differences give {numeric:.8g}"
                )
    direction = {i: random.normal(size=arrays[i].shape) for i in checked}
    analytic = float(sum((gradients[i] * direction[i]).sum() for i in checked))
    numeric = float(slope(direction))
    size = float(np.sqrt(sum((gradients[i] ** 2).sum() for i in checked)))
    if not agree(analytic, numeric, size):
        raise GradientError(
            f"along a random direction of inputs {checked} the gradient gives {analytic:.8g}, finite differences "
            f"{numeric:.8g}; the {max_elements} elements of each that were tried one by one agree"
        )
    return True
