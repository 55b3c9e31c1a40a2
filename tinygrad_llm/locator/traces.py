"""What a model computed on one batch, forward and backward, under names that another model's can be paired with.

A key is (name, what, call). The name is a module's, `what` is "result" or "input", its first one, and `call` counts the
calls from 0. A trace of ours also has every operation, named "h.0.attn/attention_qkvpacked" after the module in which
it ran, and counts what an operation on a layer's parameters computes as that layer's, since a fused one never calls it.
"""

import contextlib
import copy
import functools
import inspect
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm import kernels, ops
from tinygrad_llm.autograd import Function, Node, watch
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.nn import Module
from tinygrad_llm.tensor import Tensor, floating
from tinygrad_llm.verification import output_gradient

Key = tuple[str, str, int]
LOSS = "loss", "result", 0


@dataclass(eq=False)
class Operation:
    """One that ran in a forward: its inputs and result and, after the walk back, the gradients of both."""

    name: str
    module: str
    inputs: list
    result: np.ndarray
    dy: np.ndarray | None = None
    gradients: tuple = ()

    def __str__(self) -> str:
        return f"{self.name} in {self.module}" if self.module else self.name


@dataclass
class Trace:
    """Arrays by key: results and inputs, in the order in which they were computed; the loss's gradients with respect to
    them and to the parameters, under their own names. And of ours the operations, with those that made the array or, in
    the walk back, its gradient."""

    forward: dict[Key, np.ndarray] = field(default_factory=dict)
    backward: dict[Key, np.ndarray] = field(default_factory=dict)
    made: dict[Key, Operation] = field(default_factory=dict)
    sent: dict[Key, Operation] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    calls: Counter = field(default_factory=Counter)

    def add(self, name: str, what: str, array: np.ndarray) -> Key:
        key = (name, what, self.calls[name, what])
        self.calls[name, what] += 1
        self.forward[key] = array
        return key


def trace(model, batch, kernel_sets: tuple[str, ...] = ()) -> Trace:
    """Run the model forward and backward on the batch. Raises UserError for what does not run."""
    model.zero_grad()
    try:
        if not isinstance(model, Module):
            return trace_torch(model, batch)
        with kernels.use(*kernel_sets) if kernel_sets else contextlib.nullcontext():
            return trace_ours(model, batch)
    except UserError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"the {type(model).__name__} does not run on this batch: {reason}") from error


def loss_of(model, batch, F, tensor) -> Any:
    """What is derived: the model's own loss of (inputs, targets), or the cross-entropy of its result; of inputs alone
    the result itself. `F` and `tensor` are the technology's functional module and what makes arrays its own."""
    inputs, targets = batch if isinstance(batch, tuple) else (batch, None)
    if targets is None:
        return _first(model(tensor(inputs)))
    inputs, targets = tensor(inputs), tensor(targets)
    if callable(getattr(model, "loss", None)):
        return model.loss(inputs, targets)
    if "targets" in inspect.signature(model.forward).parameters:  # as nanoGPT's: (logits, loss)
        return model(inputs, targets)[1]
    logits = _first(model(inputs))
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def walk_back(loss, torch=None) -> None:
    """Have a loss derived, or a result from a gradient of random numbers, so that no term can hide."""
    gradient = output_gradient(tuple(loss.shape)) if loss.shape else np.ones(())
    if torch:
        loss.backward(torch.as_tensor(gradient, dtype=loss.dtype, device=loss.device))
    else:
        loss.backward(to_device(gradient.astype(loss.dtype), loss.device))


# Ours


def named_modules(model: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Every module with its name, the model's own the empty one."""
    yield prefix, model
    for name, child in model.named_children():
        yield from named_modules(child, f"{prefix}.{name}" if prefix else name)


def trace_ours(model: Module, batch) -> Trace:
    found, running, made = Trace(), [""], {}  # made: the operation that made an array, by the array's identity
    arrays: dict[Key, np.ndarray] = {}
    layers = {id(p.data): name.rpartition(".")[0] for name, p in reversed(list(model.named_parameters()))}

    def add(name: str, what: str, array: np.ndarray) -> None:
        key = found.add(name, what, host(array))
        arrays[key] = array

    def note(name: str, inputs: list, result: np.ndarray, module: str | None = None) -> None:
        module = running[-1] if module is None else module
        operation = made[id(result)] = Operation(name, module, inputs, result)
        found.operations.append(operation)
        used = [layers[id(x)] for x in inputs if id(x) in layers]
        inside = not used or any(layer == running[-1] for layer in used)
        if not inside and (x := next((x for x in inputs if _is_floating(x) and id(x) not in layers), None)) is not None:
            add(used[0], "input", x)
        add(f"{module}/{name}", "result", result)
        if not inside:
            add(used[-1], "result", result)

    def see(phase: str, name: str, inputs: tuple, outputs: tuple, seconds: float) -> None:
        if phase != "forward":
            return
        inputs = [x for x in inputs if not isinstance(x, Function.Context)]
        if name in ("add_layernorm", "add_rmsnorm"):  # two on the tape: see `nn.add_norm`
            note("add", inputs[:2], outputs[0])
            note(name.removeprefix("add_"), [outputs[0], *inputs[2:]], outputs[1], layers.get(id(inputs[2])))
        else:
            note(name, inputs, outputs[0])

    def shown(name: str, forward):
        @functools.wraps(forward)
        def run(*inputs, **options):
            running.append(name)
            x = next((x.data for x in inputs if isinstance(x, Tensor) and floating(x.dtype)), None)
            if x is not None and name:
                add(name, "input", x)
            y = forward(*inputs, **options)
            if isinstance(first := _first(y), Tensor) and name:
                add(name, "result", first.data)
            running.pop()
            return y

        return run

    modules = {id(module): (name, module) for name, module in reversed(list(named_modules(model)))}.values()
    for name, module in modules:
        module.forward = shown(name, module.forward)
    try:
        with watch(see):
            loss = loss_of(model, batch, F, own(model))
    finally:
        for _, module in modules:
            del module.forward
    found.forward[LOSS] = host(loss.data)
    arrays[LOSS] = loss.data
    made.setdefault(id(loss.data), found.operations[-1])  # a scalar of NumPy's has become an array
    found.made = {key: made[id(array)] for key, array in arrays.items() if id(array) in made}
    order = follow(loss, made)
    walk_back(loss)

    keys, parameters = defaultdict(list), defaultdict(list)
    for key, operation in found.made.items():
        keys[operation].append(key)
    for name, parameter in model.named_parameters():
        parameters[id(parameter.data)].append((name, parameter))
    calls = Counter()
    for operation in order:
        for key in keys[operation]:
            found.backward[key] = operation.dy
        names, place = names_of(operation.name), f"{operation.module}/{operation.name}"
        for i, (x, dx) in enumerate(zip(operation.inputs, operation.gradients, strict=False)):
            if dx is not None:
                what = f"gradient of {names[i] if i < len(names) else f'input {i}'}"
                key = (place, what, calls[place, what])
                calls[place, what] += 1
                found.backward[key], found.sent[key] = dx, operation
            for name, parameter in parameters[id(x)]:
                key = (name, "gradient", 0)
                found.backward.pop(key, None)  # a shared one is whole after the last
                found.backward[key], found.sent[key] = host(parameter.grad), operation
    return found


def follow(loss: Tensor, made: dict[int, Operation]) -> list[Operation]:
    """Have every operation on the tape keep the gradients that it will be sent and send; returns a list that they will
    stand in, in the order of the walk back. The operation of a node is known from that of the node it sends to."""
    order: list[Operation] = []
    pending, seen = [(loss.node, made.get(id(loss.data)))], set()
    while pending:
        node, operation = pending.pop()
        if not isinstance(node, Node) or operation is None or node in seen:
            continue
        seen.add(node)
        node.backward = _keeping(node.backward, node.gathers, node.edges, operation, order)
        pending += [(edge, made.get(id(x))) for edge, x in zip(node.edges, operation.inputs, strict=False)]
    return order


def _keeping(backward, gathers: bool, edges: tuple, operation: Operation, order: list[Operation]):
    def run(dy, **arrived):
        before = [edge.grad if isinstance(edge, Tensor) else None for edge in edges]
        operation.dy = host(dy)
        order.append(operation)
        gradients = backward(dy, **arrived)
        shown = list(gradients) if isinstance(gradients, tuple) else [gradients]
        if gathers:
            shown[0] = None  # others' are in it, as in what it has added to
        pairs = zip(shown, before, strict=False)
        operation.gradients = tuple(None if dx is None or dx is grad else host(dx) for dx, grad in pairs)
        return gradients

    return run


def names_of(operation: str) -> list[str]:
    """What an operation calls its inputs; nothing for a Function of the user's."""
    forward = getattr(getattr(ops, operation, None), "forward", None)
    return list(inspect.signature(forward).parameters) if forward else []


# PyTorch's


def trace_torch(model, batch) -> Trace:
    torch = torch_of(model)
    found, tensors = Trace(), {}

    def see(name: str):
        def hook(module, inputs, options, result):
            given = (x for x in (*inputs, *options.values()) if torch.is_tensor(x) and x.is_floating_point())
            if (x := next(given, None)) is not None:
                keep(found.add(name, "input", host(x)), x)
            if torch.is_tensor(y := _first(result)) and y.is_floating_point():
                keep(found.add(name, "result", host(y)), y)

        return hook

    def keep(key: Key, x) -> None:
        tensors[key] = x
        if x.requires_grad:
            x.register_hook(lambda dx: found.backward.__setitem__(key, host(dx)))

    modules = [(name, module) for name, module in model.named_modules() if name]
    hooks = [module.register_forward_hook(see(name), with_kwargs=True) for name, module in modules]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    try:
        loss = loss_of(model, batch, torch.nn.functional, own(model, torch))
        keep(LOSS, loss)
        found.forward[LOSS] = host(loss)
        walk_back(loss, torch)
    finally:
        for hook in hooks:
            hook.remove()
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            found.backward[name, "gradient", 0] = host(parameter.grad)
    return found


def torch_of(model):
    """PyTorch, if the model is a module of its. Raises UserError otherwise."""
    if any(kind.__module__.startswith("torch.nn") for kind in type(model).__mro__):
        return sys.modules["torch"]
    raise UserError(f"compare takes models, a Module of tinygrad_llm or of torch.nn, and not {type(model).__name__}")


def doubled(model):
    """A copy in float64. Raises UserError for a model that cannot be copied."""
    try:
        return copy.deepcopy(model).double()
    except (TypeError, RuntimeError) as error:
        raise UserError(f"the {type(model).__name__} cannot be copied: {error}") from error


def host(x) -> np.ndarray:
    """A copy of an array or of a tensor of PyTorch's in float64, where rounding does not count."""
    x = x.data if isinstance(x, Tensor) else x
    if hasattr(x, "detach"):
        return x.detach().cpu().double().numpy().copy()
    return np.array(to_device(x, "cpu"), np.float64)


def _first(result):
    """The result, or the first of several; of transformers' outputs the logits."""
    if hasattr(result, "logits"):
        return result.logits
    if isinstance(result, tuple | list) or hasattr(result, "to_tuple"):
        return result[0]
    return result


def own(model, torch=None):
    """What makes an array the model's: on its device and, if floating, of its dtype."""
    first = next(iter(model.parameters()))
    if torch:
        return lambda x: torch.as_tensor(x, device=first.device, dtype=torch.int64 if _is_whole(x) else first.dtype)
    return lambda x: to_device(x, first.device) if _is_whole(x) else Tensor(to_device(x, first.device), first.dtype)


def _is_floating(x) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape") and floating(x.dtype)


def _is_whole(x) -> bool:
    return np.asarray(x).dtype.kind in "iub"
