"""One operation, saved with its inputs and run again; and what would have made its result another's."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading, write_atomic
from tinygrad_llm.locator.traces import Operation, names_of
from tinygrad_llm.random import Mask
from tinygrad_llm.tensor import Tensor, floating
from tinygrad_llm.verification import largest, relative_error

EPS = 1e-5, 1e-6, 1e-8, 1e-12, 0.0


def save_operation(path: Path, operation: Operation, expected: np.ndarray | None) -> None:
    """Write what `replay` reads: an .npz file without pickles."""
    arrays, values = {}, {}
    for i, x in enumerate(operation.inputs):
        if isinstance(x, Mask):
            x = x.array(operation.result)
        if hasattr(x, "dtype"):
            arrays[f"input{i}"] = to_device(x, "cpu")
        else:
            values[str(i)] = x
    arrays |= {"result": to_device(operation.result, "cpu")}
    arrays |= {f"gradient{i}": dx for i, dx in enumerate(operation.gradients) if dx is not None}
    arrays |= {name: x for name, x in (("dy", operation.dy), ("expected", expected)) if x is not None}
    about = {"name": operation.name, "module": operation.module, "inputs": len(operation.inputs), "values": values}
    file = io.BytesIO()
    np.savez(file, about=json.dumps(about, default=str), **arrays)
    write_atomic(path, file.getvalue())


def replay(path: str | Path, operation: Callable | None = None) -> dict[str, np.ndarray]:
    """Run an operation that `Comparison.save` has saved again, with the kernels that are preferred now.

    Returns its "result" and the gradients of its floating inputs, "d<name>"; beside them, as they were then, "recorded"
    and, of theirs where the two differed first, "expected". `operation` takes the place of the one of that name in
    `tinygrad_llm.ops`, such as a Function's `apply`. Raises UserError for a file that is none of these.
    """
    with reading(path), np.load(path) as file:
        saved = {name: file[name] for name in file.files}
        about = json.loads(str(saved["about"]))
        operation = operation or getattr(ops, about["name"], None)
        if operation is None:
            raise UserError(f"{about['name']!r} is no operation of tinygrad_llm.ops: give replay the function itself")
        given = about["values"] | {name.removeprefix("input"): x for name, x in saved.items()}
        inputs = [given[str(i)] for i in range(about["inputs"])]
    tensors = [Tensor(x, requires_grad=True) if hasattr(x, "dtype") and floating(x.dtype) else x for x in inputs]
    y = operation(*tensors)
    results = {"result": y.data, "recorded": saved["result"]}
    if "expected" in saved:
        results["expected"] = saved["expected"]
    if "dy" in saved and y.requires_grad:
        y.backward(saved["dy"].astype(y.dtype))
        names = names_of(about["name"])
        for i, x in enumerate(tensors):
            if isinstance(x, Tensor) and x.grad is not None:
                results[f"d{names[i] if i < len(names) else i}"] = x.grad
    return results


def repaired(operation: Operation, expected: np.ndarray, limit: float) -> str:
    """In words, the one change to the operation's inputs that gives what was expected; nothing where none does."""
    page = getattr(ops, operation.name, None)
    if page is None or expected.size != operation.result.size:
        return ""
    for words, inputs in variations(operation):
        with no_grad():
            y = to_device(page(*inputs).data, "cpu").astype(np.float64)
        if relative_error(y, expected.reshape(y.shape), largest(expected)) <= 10 * limit:
            return words
    return ""


def variations(operation: Operation) -> Iterator[tuple[str, list]]:
    """Its inputs with one of them changed, as one would change it who knows another convention."""
    for i, (name, x) in enumerate(zip(names_of(operation.name), operation.inputs, strict=False)):
        if name == "eps":
            others = [(f"eps={eps:g} instead of {x:g}", eps) for eps in EPS if eps != x]
        elif name == "approximate":
            other = "none" if x == "tanh" else "tanh"
            others = [(f"approximate={other!r} instead of {x!r}", other)]
        elif name == "is_causal":
            others = [(f"is_causal={not x}", not x)]
        elif name.endswith("weight") and getattr(x, "ndim", 0) == 2 and x.shape[0] == x.shape[1]:
            others = [(f"the transpose of {name}", x.T)]
        elif name.endswith("bias") and x is not None:
            others = [(f"no {name}", None)]
        else:
            continue
        for words, other in others:
            yield words, [*operation.inputs[:i], other, *operation.inputs[i + 1 :]]
