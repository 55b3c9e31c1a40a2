"""Every backward by finite differences in float64: the slope along a random direction in each floating input.

Where the slopes on both sides differ, a kink or an infinity is at hand, and the input is left out.
"""

import numpy as np

from tinygrad_llm import kernels, verification
from tinygrad_llm.verification import Comparison, input_names, operations, oracles, output_gradient, rounded, run

LIMIT = 1e-6  # of the sum of the sizes of all terms
STEP = 1e-5


def pairs(names=(), kernel_sets=()) -> list[tuple[str, str, str]]:
    """As `verification.pairs`, of what computes in float64."""
    return [pair for pair in verification.pairs(names, kernel_sets) if pair[2] == "float64"]


def compare(name: str, kernel_set: str, dtype: str = "float64") -> Comparison:
    """Compare the gradient of every floating input with the slope; a case is an input of a case of the oracle."""
    operation, comparison = operations()[name], Comparison(name, kernel_set, dtype, "differences")
    with kernels.use(kernel_set):
        for inputs, options in (rounded(*case.make(seed=1), dtype) for case in oracles()[name].cases):
            results = run(operation, inputs, options, dtype)
            if results["y"].dtype != np.float64 or options.get("padding_idx") is not None:
                continue  # steps of rounding have no slope; at the padding the gradient stops by definition
            for position, key in enumerate(input_names(operation, len(inputs))):
                if f"d{key}" in results:
                    before, after = one_sided_slopes(operation, inputs, options, position)
                    if not np.isclose(before, after, rtol=1e-2, atol=1e-4):
                        comparison.leave_out("a kink or an infinity at hand")
                        continue
                    terms = results[f"d{key}"] * direction(inputs[position])
                    error = abs((before + after) / 2 - terms.sum()) / (np.abs(terms).sum() or 1)
                    comparison.cases += 1
                    comparison.errors.setdefault(f"d{key}", []).append(float(error))
                    if not error <= LIMIT:
                        where = verification.describe(inputs, options)
                        comparison.failures.append(f"{where}: d{key} is off by {error:.1e} of its terms")
    return comparison


def direction(x: np.ndarray) -> np.ndarray:
    return np.random.default_rng(11).normal(size=x.shape)


def one_sided_slopes(operation, inputs: list, options: dict, position: int) -> tuple[float, float]:
    """How fast sum(y w) grows along the direction, just before the input and just after it."""
    x = inputs[position]

    def y(shift):
        moved = np.asarray(x + shift * direction(x))  # a scalar of NumPy's would be a number, which has no dtype
        return operation(*inputs[:position], moved, *inputs[position + 1 :], **options).data

    y0, y1, y2 = y(-STEP), y(0), y(STEP)
    w = output_gradient(np.shape(y1))
    with np.errstate(invalid="ignore"):  # the difference of infinities is no number, which is close to nothing
        return ((y1 - y0) / STEP * w).sum(), ((y2 - y1) / STEP * w).sum()
