"""PyTorch's own operator tests, op_db, for every operation that we offer under the same name.

Their sample inputs, forward and the gradient of every input that PyTorch gives one, within the limits of
`verification`; and their error inputs, at which ours must raise too. What is left out has its reason below: an
unexplained sample is a failure, and so is a reason for one that ours accepts after all.
"""

import operator
from collections.abc import Callable
from functools import cache

import numpy as np

from tinygrad_llm import functional, kernels, ops
from tinygrad_llm.suites.samples import CLEAR, Reason, attempt, compare_samples, find, given, pairs_of, reference
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.verification import Comparison, input_names

# What op_db calls by another name, or with its arguments in another order.
OURS = {
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "rsub": Tensor.__rsub__,
    "T": Tensor.T.fget,
    "mT": Tensor.mT.fget,
    "where": Tensor.where,
    "nn.functional.embedding": lambda weight, input, **options: functional.embedding(input, weight, **options),
}
PAGES = {  # of those that have a kernel under another name
    "__radd__": "add",
    "nn.functional.layer_norm": "layernorm",
    "nn.functional.rms_norm": "rmsnorm",
    "nn.functional.scaled_dot_product_attention": "attention",
}

# Inputs that receive a gradient in PyTorch and are constants here; the samples are compared without it.
CONSTANTS = {
    "clamp": ("min", "max"),
    "masked_fill": ("value",),
    "nn.functional.cross_entropy": ("target",),
}


def _axis_of_a_number(arguments: dict) -> bool:
    return np.ndim(next(iter(arguments.values()))) == 0 and any(name.startswith("dim") for name in arguments)


def _several_ndims(arguments: dict) -> bool:
    return len({np.ndim(x) for name, x in arguments.items() if name != "dim"}) > 1


LEFT_OUT = [
    # Not offered: ours refuses them.
    Reason("write x + alpha * y", "add sub rsub", given("alpha")),
    Reason("a division is not rounded", "div", given("rounding_mode")),
    Reason("convert to a dtype first", "cumsum", given("dtype")),
    Reason("max and min reduce one tensor; maximum and minimum take two", "max.binary min.binary"),
    Reason("a number has no axes", "max min squeeze transpose logsumexp cumsum gather", _axis_of_a_number),
    Reason("an index has as many axes as what it picks from", "gather", lambda a: a["index"].ndim != a["x"].ndim),
    Reason("the mask is no larger than what is filled", "masked_fill", lambda a: a["mask"].ndim > a["x"].ndim),
    Reason("NumPy has no memory formats", "to clone float double long", given("memory_format")),
    Reason("the correction is a number, and not called unbiased", "std var", given("unbiased")),
    Reason("the correction is a number, and not called unbiased", "std var", lambda a: a.get("correction", 1) is None),
    Reason("the correction is a number, and not called unbiased", "std.unbiased var.unbiased"),
    Reason("tensors that are joined have equally many axes", "cat", _several_ndims),
    Reason(
        "no weights of classes, bias or chunks of one's own",
        "nn.functional.linear_cross_entropy",
        given("weight", "linear_bias", "options"),
    ),
    Reason(
        "rows (N, C), and a class for each",
        "nn.functional.linear_cross_entropy",
        lambda a: (a["input"].ndim, a["linear_weight"].ndim, a["target"].ndim) != (2, 2, 1),
    ),
    Reason(
        "batches are not broadcast",
        "nn.functional.scaled_dot_product_attention",
        lambda a: a["query"].ndim != a["key"].ndim,
    ),
    # Accepted, and not the same.
    Reason(
        "random numbers of another generator",
        "nn.functional.dropout",
        lambda a: a.get("training", True) and 0 < a.get("p", 0.5) < 1,
        refused=False,
    ),
    Reason(
        "random numbers of another generator",
        "nn.functional.scaled_dot_product_attention",
        lambda a: a.get("dropout_p", 0) > 0,
        refused=False,
    ),
]

# Error inputs that ours accepts.
LENIENT = [
    Reason(
        "numbers may stand for tensors",
        "eq ne lt le gt ge maximum minimum pow rsub __radd__ __rmul__ __rpow__ __rsub__",
        lambda a: any(isinstance(x, int) for x in a.values()),
    ),
    Reason("an array of one element may stand for a number", "masked_fill", lambda a: np.shape(a["value"]) == (1,)),
    Reason("PyTorch's complex numbers have no place here", "masked_fill", lambda a: np.shape(a["value"]) == ()),
]


@cache
def entries() -> dict[str, Callable]:
    """The entries of op_db that we offer, and what ours is."""
    found = {name: _ours(info.name) for name, info in reference().OPERATORS.items()}
    return {name: ours for name, ours in found.items() if ours}


def _ours(name: str) -> Callable | None:
    if name in OURS:
        return OURS[name]
    if name.startswith("nn.functional."):
        name = name.removeprefix("nn.functional.")
        return getattr(functional, name) if name in functional.__all__ else None
    places = (functional, ops, Tensor)
    return next((f for place in places if callable(f := vars(place).get(name)) and hasattr(f, "__name__")), None)


def pairs(names=(), kernel_sets=()) -> list[tuple[str, str, str]]:
    """As `verification.pairs`: each entry of ours by NumPy's pages, and by each set of the host that has its page."""
    return pairs_of({name: _page(name) for name in entries()}, names, kernel_sets)


def _page(name: str) -> str:
    """The page in `ops` that an entry is about."""
    return PAGES.get(name, name.removeprefix("nn.functional.").split(".")[0])


def compare(name: str, kernel_set: str, dtype: str) -> Comparison:
    """Compare ours with PyTorch on the sample inputs of one entry, by one kernel set in one dtype."""
    comparison = Comparison(name, kernel_set, dtype, suite="op_db")
    samples = reference().operator_samples(name, dtype)
    cases = ((_call(name, sample), sample.function, entries()[name]) for sample in samples)
    return compare_samples(comparison, cases, LEFT_OUT, CONSTANTS.get(name, ()))


def compare_errors(name: str) -> Comparison:
    """See that ours raises an error, a clear one, at the error inputs of one entry."""
    comparison = Comparison(name, "numpy", "float32", suite="op_db: errors")
    with kernels.use("numpy"):
        for number, (sample, words) in enumerate(reference().operator_errors(name)):
            call = _call(name, sample)
            found = attempt(call, entries()[name])
            if isinstance(found, CLEAR):
                comparison.cases += 1
            elif reason := find([*LEFT_OUT, *LENIENT], name, call):
                comparison.leave_out(reason.why)
            else:
                comparison.failures.append(f"case {number}: {found!r} where PyTorch says: {words}")
    return comparison


def _call(name: str, sample):
    ours = entries()[name]
    return reference().call(sample.args, sample.kwargs, input_names(ours, len(sample.args)))
