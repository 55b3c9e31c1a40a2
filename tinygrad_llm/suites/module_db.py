"""PyTorch's own tests of its modules, module_db, for every layer that we have, and every loss and activation that is a
function here.

Each module's samples: forward, and the gradients of the inputs and of all parameters, within the limits
of `verification`. What is left out has its reason, as in `op_db`.
"""

from collections.abc import Callable
from functools import partial

from tinygrad_llm import functional as F
from tinygrad_llm import nn
from tinygrad_llm.suites.samples import Reason, compare_samples, given, pairs_of, reference
from tinygrad_llm.verification import Comparison


def _layer(layer: type[nn.Module]) -> tuple[Callable, str]:
    """A function of the arguments that make the layer, its parameters by name and its inputs; and its page in `ops`."""

    def run(options, parameters, *inputs):
        args, kwargs = options
        module = layer(*args, **kwargs)
        vars(module).update(parameters)
        return module(*inputs)

    return run, layer.__name__.lower()


def _function(function: Callable, *names: str) -> tuple[Callable, str]:
    """The same of a function, which has no parameters; the arguments of the module are its options, of these names."""

    def run(options, parameters, *inputs):
        args, kwargs = options
        return function(*inputs, **dict(zip(names, args, strict=True)), **kwargs)

    return run, function.__name__


OURS = {
    "nn.Embedding": _layer(nn.Embedding),
    "nn.LayerNorm": _layer(nn.LayerNorm),
    "nn.Linear": _layer(nn.Linear),
    "nn.RMSNorm": _layer(nn.RMSNorm),
    "nn.GELU": _layer(nn.GELU),
    "nn.LogSigmoid": _function(F.logsigmoid),
    "nn.LogSoftmax": _function(F.log_softmax, "dim"),
    "nn.ReLU": _function(F.relu),
    "nn.Sigmoid": _function(F.sigmoid),
    "nn.SiLU": _function(F.silu),
    "nn.Softmax": _function(F.softmax, "dim"),
    "nn.Tanh": _function(F.tanh),
    "nn.BCEWithLogitsLoss": _function(F.binary_cross_entropy_with_logits),
    "nn.CrossEntropyLoss": _function(F.cross_entropy),
    "nn.KLDivLoss": _function(F.kl_div),
    "nn.MSELoss": _function(F.mse_loss),
    "nn.NLLLoss": _function(F.nll_loss),
}
"""By PyTorch's name: ours, and its page in `ops`."""

LEFT_OUT = [
    Reason("a layer's input has no name", "nn.Linear", given("input")),
    Reason("a layer without parameters is the function", "nn.LayerNorm nn.RMSNorm", lambda a: "weight" not in a),
    Reason(
        "1 - y^2 of y next to 1 has lost its digits, as PyTorch's has: of four numbers the last bits decide",
        "nn.Tanh",
        lambda a: a["x"].shape == (4,) and a["x"].element_size() == 4,
        refused=False,
    ),
    Reason("a norm with parameters is no option", "nn.LayerNorm", lambda a: "bias" not in a),
]
CONSTANTS = {"nn.CrossEntropyLoss": ("target",)}


def pairs(names=(), kernel_sets=()) -> list[tuple[str, str, str]]:
    """As `op_db.pairs`, for the modules that we have."""
    return pairs_of({name: page for name, (_, page) in OURS.items()}, names, kernel_sets)


def compare(name: str, kernel_set: str, dtype: str) -> Comparison:
    """Compare ours with PyTorch on the samples of one module, by one kernel set in one dtype."""
    comparison = Comparison(name, kernel_set, dtype, suite="module_db")
    torchs, (ours, _) = reference(), OURS[name]
    cases = (
        (torchs.call(s.args, s.kwargs, ("parameters", "x", "target")), s.function, partial(ours, s.options))
        for s in torchs.module_samples(name, dtype)
    )
    return compare_samples(comparison, cases, LEFT_OUT, CONSTANTS.get(name, ()))
