"""The locator: two models in lockstep, forward and backward, and the first operation in which they differ.

>>> comparison = compare(ours, theirs, (ids, targets))
>>> print(comparison)           # a paragraph: what differs first, by how much, and what would make it agree
>>> comparison.save("compare")  # report.html, report.json, and operation.npz for `replay`

**Noise is measured, not assumed.** Each model also runs with its parameters moved by a millionth, at random, one way
and the other. Of a smooth function f the mean of both is f itself but for 1e-12; what is left is the rounding of
whatever precision it computes in there, grown as far as it has grown there. So a model that rounds to float32 on its
way through float64, as transformers' Llama does, gets the room that it needs, and no other does.

An error is beyond noise if it is larger than four times the largest noise of both models so far, plus `FLOORS` of the
dtype. Errors are shares of the largest number in an array; of a parameter's gradient, of the largest in the gradients
of its layer, since that of a bias of keys is zero but for rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.errors import UserError
from tinygrad_llm.locator.pairing import Pairing
from tinygrad_llm.locator.replays import repaired, replay, save_operation
from tinygrad_llm.locator.runs import FLOORS, Side, rounding
from tinygrad_llm.locator.traces import LOSS, Key, Operation, Trace
from tinygrad_llm.locator.training import Step, train
from tinygrad_llm.verification import largest, relative_error

__all__ = ["Comparison", "Row", "compare", "replay"]


@dataclass
class Row:
    """One array of ours beside theirs: the largest difference and what noise allows."""

    key: Key
    error: float
    limit: float

    @property
    def differs(self) -> bool:
        return not self.error <= self.limit

    def __str__(self) -> str:
        return spoken(self.key)


@dataclass
class Comparison:
    """What `compare` found: `phase` is "random", "forward", "backward" or "training", where `place` differs first, or
    "" where nothing does; `operation` is ours that computed it, and `expected` what it should have, for `save`."""

    phase: str = ""
    place: str = ""
    verdict: str = ""
    forward: list[Row] = field(default_factory=list)
    backward: list[Row] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    operation: Operation | None = None
    expected: np.ndarray | None = None

    @property
    def agrees(self) -> bool:
        return not self.phase

    def __str__(self) -> str:
        return self.verdict

    def save(self, folder: str | Path) -> None:
        """Write report.html and report.json and, of an operation that differs, operation.npz, which `replay` runs
        again. Raises UserError where that fails."""
        from tinygrad_llm.locator.report import report  # which needs Matplotlib

        report(self).save(Path(folder))
        if self.operation:
            save_operation(Path(folder) / "operation.npz", self.operation, self.expected)


def compare(
    ours,
    theirs,
    batch,
    *,
    kernels: tuple = (),
    mapping: Mapping[str, str] | None = None,
    double: bool | None = None,
    steps: int = 0,
    optimizers: tuple | None = None,
) -> Comparison:
    """Run two models on one batch and say where they first differ beyond noise (see above). A single operation is
    compared with PyTorch's by `verification.compare`.

    Args:
        ours: a Module
        theirs: a Module or a torch.nn.Module, the standard; ours itself to compare two kernel sets
        batch: (inputs, targets), or inputs alone: arrays, such as token ids (B, T)
        kernels: what computes ours and what theirs, such as ("my/layernorm.py", "numpy"); sets in a tuple are asked in
            order
        mapping: the names of their layers by the names of ours, for those that cannot be paired by name and shape
        double: whether to compare copies in float64, and not the models as they are; true unless `kernels` are given
        steps: how many training steps to compare after that, in which what only one of them has is left as it is
        optimizers: two functions that make each one's optimizer from its parameters; AdamW's defaults unless given

    The models themselves stay as they are. Raises UserError for what is no model, for models that have no loss where
    targets are given, for layers that cannot be paired and for a batch that a model cannot read.
    """
    kernels = tuple((names,) if isinstance(names, str) else tuple(names) for names in kernels) or ((), ())
    if len(kernels) != 2:
        raise UserError(f"kernels are two, what computes ours and what theirs, not {len(kernels)}")
    double = not any(kernels) if double is None else double
    state = random.get_state()
    try:
        sides = [Side(model, batch, sets, double) for model, sets in zip((ours, theirs), kernels, strict=True)]
        pairing = Pairing(sides[0].model, sides[1].model, mapping)
        floor = max(FLOORS[side.dtype] for side in sides)
        found = _judge(sides, pairing, floor)
        if steps and found.agrees:
            _train(found, sides, pairing, floor, steps, optimizers)
        return found
    finally:
        random.set_state(state)


def _judge(sides: list[Side], pairing: Pairing, floor: float) -> Comparison:
    found = Comparison()
    found.forward = rows(sides, pairing, floor, gradients=False)
    found.backward = rows(sides, pairing, floor, gradients=True)
    if not found.forward[1:]:
        raise UserError("the models have no layer in common whose results could be compared: give a mapping of names")
    for side, name in zip(sides, ("ours", "theirs"), strict=True):
        if not found.phase and (key := side.random(floor)):
            found.phase, found.place = "random", key[0]
            found.verdict = (
                f"Random: {spoken(key)} of {name} is not the same when {name} runs again on the same batch, and what "
                f"comes before it is.{side.dropping()} Call eval() on the model, or make it deterministic."
            )
    weights = differing(pairing, floor)
    ours = sides[0].trace
    if not found.phase and (row := next((row for row in found.forward if row.differs), None)):
        _explain_forward(found, row, ours, pairing.find(row.key, sides[1].trace))
    elif not found.phase and (row := next((row for row in found.backward if row.differs), None)):
        _explain_backward(found, row, ours, pairing.find(row.key, sides[1].trace, gradients=True))
    if found.agrees:
        nearest = max(found.forward + found.backward, key=lambda row: row.error / row.limit)
        found.verdict = (
            f"No difference beyond noise in {len(found.forward)} results and {len(found.backward)} gradients. Nearest "
            f"to its limit of {nearest.limit:.1e} is {nearest}, with {nearest.error:.1e}."
        )
    if weights:
        found.verdict += f" The parameters are not the same: {'; '.join(weights[:4])}" + (
            f"; and {len(weights) - 4} more." if len(weights) > 4 else "."
        )
    return found


def rows(sides: list[Side], pairing: Pairing, floor: float, gradients: bool) -> list[Row]:
    """Every array that both have, in our order, with its error and its limit."""
    ours, theirs = sides
    found, noise = [], 0.0
    for key, x in (ours.trace.backward if gradients else ours.trace.forward).items():
        y = pairing.find(key, theirs.trace, gradients)
        if y is None or x.size != y.size or x.shape[-1:] != y.shape[-1:]:
            continue
        scale = largest(y)
        if key[1] == "gradient":
            scale = max(scale, largest_of_layer(ours.trace, key))
        own = max(
            rounding(x, *((t.backward if gradients else t.forward)[key] for t in ours.moved), scale),
            rounding(y, *(pairing.find(key, t, gradients) for t in theirs.moved), scale),
        )
        noise = max(noise, own)
        found.append(Row(key, relative_error(x, y.reshape(x.shape), scale), 4 * noise + floor))
    return found


def largest_of_layer(trace: Trace, key: Key) -> float:
    """The largest number in the gradients of the parameters of a layer."""
    layer = key[0].rpartition(".")[0]
    beside = [x for (name, what, _), x in trace.backward.items() if (name.rpartition(".")[0], what) == (layer, key[1])]
    return max(map(largest, beside))


def spoken(key: Key) -> str:
    """A key in words."""
    name, what, call = key
    again = f" (call {call + 1})" if call else ""
    if key == LOSS:
        return "the loss"
    if what == "gradient":
        return f"the gradient of {name}"
    module, slash, operation = name.partition("/")
    of = f"{operation} in {module or 'the model'}" if slash else name
    return f"the {what} of {of}{again}"


def differing(pairing: Pairing, floor: float) -> list[str]:
    """In words, each parameter that one of the models has and the other has not, or with other numbers."""
    found = []
    for layer in pairing.ours:
        for name in layer.parameters:
            full = f"{layer.name}.{name}".lstrip(".")
            x, y = layer.array(name), pairing.parameter(layer.name, name)
            if y is None:
                found.append(f"theirs has no {full}")
            elif x.shape != y.shape:
                found.append(f"{full} is {x.shape} in ours and {y.shape} in theirs")
            elif relative_error(x, y, scale := largest(y)) > floor:
                if x.ndim == 2 and x.shape == x.T.shape and relative_error(x, y.T, scale) <= floor:
                    found.append(f"{full} is the transpose of theirs")
                    continue
                at = np.flatnonzero(~(np.abs(x - y).reshape(len(x), -1).max(1) <= floor * scale))
                zero = [who for who, z in (("ours", x), ("theirs", y)) if not z[at].any()]
                found.append(
                    f"{full} differs in {len(at)} of {len(x)} rows, from {at[0]} to {at[-1]}"
                    + (f", which are zero in {zero[0]}" if zero else "")
                )
        for part in pairing.parts[layer.name]:
            missing = part.layer.parameters.keys() - layer.parameters.keys()
            for name in sorted(missing):
                zero = "" if part.layer.array(name).any() else ", but of zeros"
                found.append(f"ours has no {layer.name}.{name}, theirs has{zero}")
    return found


def _explain_forward(found: Comparison, row: Row, ours: Trace, expected: np.ndarray) -> None:
    index = found.forward.index(row)
    found.phase, found.place, found.expected = "forward", row.key[0], expected
    found.operation = operation = ours.made.get(row.key)
    before = f" Right before it {found.forward[index - 1]} agrees." if index else ""
    last = found.forward[-1]
    found.verdict = (
        f"Forward: {row} is the first to differ, by {row.error:.1e} where noise explains {row.limit:.1e}"
        f"{f'; ours is computed by {operation}' if operation else ''}.{before}"
    )
    if operation and (hint := repaired(operation, expected, row.limit)):
        found.verdict += f" The two agree with {hint} in ours."
    found.verdict += f" In the end {last} is off by {last.error:.1e}" + ("." if last.differs else ": within noise.")


def _explain_backward(found: Comparison, row: Row, ours: Trace, expected: np.ndarray) -> None:
    index = found.backward.index(row)
    found.phase, found.place, found.expected = "backward", row.key[0], expected
    if row.key in ours.sent:
        senders = [ours.sent[row.key]]
    else:  # of a result: whoever used it has sent a part
        made = ours.made.get(row.key)
        senders = [o for o in ours.operations if made and any(x is made.result for x in o.inputs)]
    found.operation = senders[0] if senders else None
    what = str(row) if row.key[1].startswith("gradient") else f"the gradient of {row}"
    own = not senders or "/" in row.key[0]  # the key has named the operation
    by = "" if own else f", from the backward of {' and of '.join(map(str, senders))},"
    before = str(found.backward[index - 1]).removeprefix("the gradient of ") if index else ""
    found.verdict = (
        f"Backward: every result agrees. {what[0].upper()}{what[1:]}{by} is the first to differ, by {row.error:.1e} "
        f"where noise explains {row.limit:.1e}."
        + (f" What was compared right before it, that of {before}, agrees." if before else "")
    )


def _train(found: Comparison, sides: list[Side], pairing: Pairing, floor: float, steps: int, optimizers) -> None:
    noise = max((row.limit for row in found.forward + found.backward), default=floor)
    alone = pairing.alone()
    for parameter in alone:  # as biases of zeros, which transformers adds to a GPT-2 that has none
        parameter.requires_grad_(False)
    but = ", with what only one of them has left as it is" if alone else ""
    found.steps = train(sides, pairing, floor, noise, steps, optimizers)
    for step in found.steps:
        if first := next((row for row in step.rows if row[1] > row[2]), None):
            name, error, limit = first
            found.phase, found.place = "training", name
            found.verdict += (
                f" Training{but}: {name} is the first to differ, after step {step.number}, by {error:.1e} where noise "
                f"explains {limit:.1e}; {sum(e > most for _, e, most in step.rows)} of {len(step.rows)} parameters "
                f"differ there. "
                + ("The gradients agree, so it is the update." if step.number == 1 else "The steps before it agree.")
            )
            return
    found.verdict += f" Nor after any of {steps} training steps{but}."
