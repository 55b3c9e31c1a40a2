"""Activation memory: what each operation of a model keeps for its backward, by layer, predicted and measured.

Measured is what the tape holds after the forward: each array once, for the operation that kept it first, and no
parameter; a large array counts with the 4 KiB that begin it at a page. Predicted is what the formulas of the backwards
need, in the shapes of the inputs and the result:

    linear      x, for dweight = dy^T x           layernorm    x, and each row's mean and rstd
    attention   q, k, v, and each row's lse       rmsnorm      x, and each row's rstd
    mlp         x and the hidden layer            swiglu       gate and up

but for an x of a megabyte or more that is the result of a norm: it is made again when it is wanted
(see Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, section 4.1, for the sum over a block).
"""

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np

from tinygrad_llm import autograd, ops
from tinygrad_llm.autograd import Function, Node, watch
from tinygrad_llm.errors import UserError
from tinygrad_llm.tensor import Tensor

LONGEST = 1024  # tokens, unless more are asked for


class Row(NamedTuple):
    """An operation in a layer, "0", "1", …, or "model" in none: how often it runs, and the bytes that it keeps."""

    layer: str
    operation: str
    calls: int
    predicted: int | None  # None where no formula is known
    measured: int


def ledger(model, batch_size: int = 1, block_size: int | None = None, seed: int = 0) -> list[Row]:
    """What each operation keeps in a forward pass of a language model on random tokens, layer by layer.

    Raises UserError for more tokens in a row than the model takes.
    """
    limit = model.config.block_size
    length = min(limit, LONGEST) if block_size is None else block_size
    if not 0 < length <= limit or batch_size < 1:
        raise UserError(f"a step of {batch_size} × {length} tokens: there must be some, and in a row at most {limit}")
    ids = np.random.default_rng(seed).integers(0, model.config.vocab_size, (2, batch_size, length))
    seen = {id(owner(parameter.data)) for parameter in model.parameters()}
    layer, ends, predictions, calls = ["model"], [], {}, {}
    known = set(seen)

    def predict(phase: str, name: str, inputs: tuple, outputs: tuple, seconds: float) -> None:
        if name.startswith("add_"):  # a sum z and its norm in one: z is what the norm is of
            name, inputs, outputs = name.removeprefix("add_"), (outputs[0], *inputs[2:]), outputs[1:]
        key = layer[-1], name
        calls[key] = calls.get(key, 0) + 1
        if name in KEEPS:
            shared, made = KEEPS[name](outputs[0], *inputs)
            new = {id(owner(x)): owner(x).nbytes for x in shared if isinstance(x, np.ndarray)}
            kept = sum(size for array, size in new.items() if array not in known)
            known.update(new)
            alive.extend(shared)
            predictions[key] = predictions.get(key, 0) + kept + made * outputs[0].itemsize
            if getattr(ops, name).cheap and outputs[0].nbytes >= autograd.LARGE:
                known.add(id(owner(outputs[0])))
                alive.append(outputs[0])

    alive = []  # so that no other array gets the identity of one of these
    with ExitStack() as stack:
        for i, block in enumerate(model.blocks):
            stack.enter_context(_noting(block, str(i), layer, ends))
        stack.enter_context(watch(predict))
        loss = model.loss(*ids)

    measured, visited = {}, set()
    for where, y in [*ends, ("model", loss)]:
        for node in reversed(list(nodes(y.node, visited))):  # the first to keep an array comes first
            kept = {id(x): x.nbytes for x in arrays(node, follow=False)}
            key = where, node.name
            measured[key] = measured.get(key, 0) + sum(size for key, size in kept.items() if key not in seen)
            seen.update(kept)
    order = dict.fromkeys([*calls, *measured])
    return [Row(*key, calls.get(key, 0), predictions.get(key), measured.get(key, 0)) for key in order]


def table(rows: list[Row]) -> str:
    """Layers that are alike as one line each: operation, calls, KiB predicted and measured; and the sums."""
    by_layer: dict[str, list[Row]] = {}
    for row in rows:
        if row.calls or row.measured:
            by_layer.setdefault(row.layer, []).append(row)
    alike: dict[tuple, list[str]] = {}
    for layer, members in by_layer.items():
        alike.setdefault(tuple(row[1:] for row in members), []).append(layer)
    lines = [
        f"{'layer':12} {'operation':22} {'calls':>5} {'predicted':>14} {'measured':>14}   KiB kept for the backward"
    ]
    for members, layers in alike.items():
        name = layers[0] if len(layers) == 1 else f"{layers[0]}, … {layers[-1]}"
        for row in (*members, ("sum", "", sum(r[2] or 0 for r in members), sum(r[3] for r in members))):
            lines.append(_line(name, *row))
            name = ""
    total = sum(row.predicted or 0 for row in rows), sum(row.measured for row in rows)
    lines.append(_line("model" if len(alike) == 1 else "all layers", "sum", "", *total))
    return "\n".join(lines)


def _line(layer: str, operation: str, calls, predicted: int | None, measured: int) -> str:
    said = "" if predicted is None else f"{predicted / 1024:.1f}"
    return f"{layer:12} {operation:22} {calls:>5} {said:>14} {measured / 1024:14.1f}"


@contextmanager
def _noting(block, name: str, layer: list[str], ends: list) -> Iterator[None]:
    """Inside, `layer` ends in the name while the block runs, and `ends` gets what goes in and out."""
    forward = block.forward

    def noted(*inputs, **options):
        ends.append(("model", inputs[0]))  # what came before the first
        layer.append(name)
        y = forward(*inputs, **options)
        layer.pop()
        ends.append((name, y))
        return y

    block.forward = noted
    try:
        yield
    finally:
        del block.forward


def _linear(y, x, *_):
    return (x,), 0


def _layernorm(y, x, *_):
    return (x,), 2 * x.size // x.shape[-1]


def _rmsnorm(y, x, *_):
    return (x,), x.size // x.shape[-1]


def _attention(y, q, k, v, *_):
    return (q, k, v), q.size // q.shape[-1]


def _attention_qkvpacked(y, qkv, n_head, *_):
    return (qkv,), y.size // y.shape[-1] * n_head


def _mlp(y, x, fc_weight, *_):
    return (x,), x.size // x.shape[-1] * len(fc_weight)


def _swiglu(y, gate, up):
    return (gate, up), 0


def _linear_cross_entropy(y, h, weight, *_):
    """The gradients themselves: they are made beside the loss, so that the logits need not be kept."""
    return (), h.size + weight.size


def _embedding(y, weight, ids, *_):
    return (ids,), 0


def _nothing(y, *_):
    return (), 0


# By operation, what its backward needs: arrays that were there before or are the result, and numbers beside them.
KEEPS: dict[str, Callable[..., tuple[Iterable, int]]] = {
    "attention": _attention,
    "attention_qkvpacked": _attention_qkvpacked,
    "embedding": _embedding,
    "gelu": _linear,
    "layernorm": _layernorm,
    "linear": _linear,
    "linear_cross_entropy": _linear_cross_entropy,
    "mlp": _mlp,
    "rmsnorm": _rmsnorm,
    "silu": _linear,
    "swiglu": _swiglu,
    **dict.fromkeys(("add", "expand", "permute", "reshape", "sub", "sum"), _nothing),
}


def nodes(root: Node, visited: set | None = None) -> Iterator[Node]:
    """The nodes that can be reached from one, each once, without those visited, to which they are added."""
    visited, stack = set() if visited is None else visited, [root]
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            yield node
            stack += [edge for edge in node.edges if isinstance(edge, Node)]


def arrays(node: Node, follow: bool = True) -> list[np.ndarray]:
    """The arrays that can be reached from a node, each once, and for a view that which it is a view of.

    Only those that its own backward holds, unless it is to `follow` the edges.
    """
    seen, stack = {}, [node if follow else node.backward]
    while stack:
        x = stack.pop()
        x = owner(x) if isinstance(x, np.ndarray) else x
        if id(x) not in seen:
            seen[id(x)] = x
            stack += held(x)
    return [x for x in seen.values() if isinstance(x, np.ndarray)]


def held(x) -> list:
    """What something on the tape holds: a node its backward, a function its closure, a container what is in it."""
    if isinstance(x, Node):
        return [getattr(x, name) for name in Node.__slots__]
    if isinstance(x, types.FunctionType):
        return [cell.cell_contents for cell in x.__closure__ or ()]
    if isinstance(x, functools.partial):
        return [x.func, *x.args, *x.keywords.values()]
    if isinstance(x, Function.Context):
        return [*vars(x).values()]
    if isinstance(x, tuple | list):
        return [*x]
    return [x.data] if isinstance(x, Tensor) else []


def owner(x: np.ndarray) -> np.ndarray:
    """The array that holds the memory."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x
