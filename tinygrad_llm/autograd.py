"""The tape: how an operation is put on it, and the walk back that gives every gradient.

An operation is a pair of functions on arrays. Its forward returns the result and whatever its backward wants to keep;
its backward takes the gradient of the loss with respect to the result, dy, and those, and returns the gradient with
respect to each input: a vector-Jacobian product (Griewank & Walther 2008, chapter 3). The tape is the graph of `Node`s
that hold the backwards; `walk_back` visits each once, after all that used its result.
"""

import contextlib
import contextvars
import functools
import inspect
import time
from collections.abc import Callable, Iterator

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.devices import array_module, device_of
from tinygrad_llm.errors import UserError
from tinygrad_llm.tensor import Tensor, floating

LARGE = 2**20
"""Bytes of a result from which on it is worth the time to make it again: a smaller model's fit into the cache."""

_recording = contextvars.ContextVar("recording", default=True)
_watchers: list[Callable] = []


class Node:
    """An operation that was run: its backward, and where the gradients of its inputs go.

    `edges` has one entry an input: the Node that made it, the leaf Tensor itself, or None if it wants no gradient.
    If it `gathers`, the backward has an argument `arrived`, and if it `places`, one `out` (see `operation`).
    `again`, if it is not None, computes the result once more: those that want it for their backward keep that instead.
    """

    __slots__ = ("again", "backward", "dtype", "edges", "gathers", "name", "places", "shape")

    def __init__(self, name: str, edges: tuple, backward: Callable, result: np.ndarray, gathers: bool = False):
        self.name = name
        self.edges = edges
        self.backward = backward
        self.gathers = gathers
        self.places = False
        self.again: functools.partial | None = None
        self.shape = result.shape
        self.dtype = result.dtype


def operation(forward: Callable, backward: Callable, cheap: bool = False) -> Callable:
    """Join `exp_forward` and `exp_backward`, say, to the tape: the function `exp` on Tensors.

    `forward(*inputs, **options)` returns y, or (y, *saved). `backward(dy, *saved)` returns the gradient of the first
    input, or a tuple with one entry for each of the first inputs, None for one that has no gradient. A backward with a
    parameter `needs` is told which inputs want theirs, so that it can leave out the work for the others. The kernel
    selected for the first floating input computes both (see `tinygrad_llm.kernels`), unless an input has no elements.
    Its forward may take `needs` too, and its backward `out`: for each input (array, add), an array that it may write
    that gradient to and return, or with `add` add it to; or (None, False), and what it then returns is an array that
    nobody else holds, but for what it has saved. Or `arrived`: the gradient of the first input that others have sent
    before, or None, which it adds its own to.

    The result of a `cheap` operation is not kept for the backward of another, unless it is small: it is made again.
    """
    name = forward.__name__.removesuffix("_forward")
    signature = inspect.signature(forward)

    def apply(*inputs, **options) -> Tensor:
        if options and (_watchers or any(isinstance(x, Tensor) for x in options.values())):
            # An input may be given by its name, and watchers are shown all arguments, each in its place.
            bound = signature.bind(*inputs, **options)
            bound.apply_defaults()
            inputs, options = bound.args, bound.kwargs
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        first = next((x for x in arrays if hasattr(x, "dtype") and floating(x.dtype)), arrays[0])
        run, run_back = forward, backward
        if all(getattr(x, "size", 1) for x in arrays):  # a kernel need not know what to do with nothing
            run = kernels.select(forward.__name__, forward, first)
            run_back = kernels.select(backward.__name__, backward, first)
        try:
            return compute(run, run_back, inputs, arrays, options)
        except kernels.Unsupported as error:
            kernels.note_fallback(name, error)
            return compute(forward, backward, inputs, arrays, options)
        except (TypeError, ValueError) as error:
            devices = {device_of(x) for x in (*arrays, *options.values()) if hasattr(x, "dtype")}
            if len(devices) > 1:
                where = " and ".join(sorted(devices))
                raise UserError(f"{name}: its inputs must be on one device, and are on {where}: move them") from error
            raise

    def compute(run, run_back, inputs, arrays, options) -> Tensor:
        needs = wants_gradient(inputs) + (False,) * (len(signature.parameters) - len(inputs))
        if _takes(run, "needs"):
            options = {**options, "needs": needs}
        y, *saved = watched("forward", name, run, arrays, options)
        saved = _cheaply(saved, inputs)
        if _takes(run_back, "needs"):
            saved.append(needs)
        places = _takes(run_back, "out")
        if not places:
            gathers = _takes(run_back, "arrived")
            result = record(name, inputs, y, lambda dy, **arrived: run_back(dy, *map(_made, saved), **arrived), gathers)
        else:
            leaves = [x if isinstance(x, Tensor) and x.node is None and _once(x, inputs) else None for x in inputs]
            result = record(
                name, inputs, y, lambda dy: run_back(dy, *map(_made, saved), [_place(leaf) for leaf in leaves])
            )
        if node := result.node:
            node.places = places
            if cheap and y.nbytes >= LARGE:
                node.again = functools.partial(run, *arrays, **options)
        return result

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = inspect.getdoc(inspect.getmodule(forward))
    apply.forward, apply.backward, apply.cheap = forward, backward, cheap
    return apply


@functools.cache
def _takes(function: Callable, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _once(x, inputs: tuple) -> bool:
    return sum(x is other for other in inputs) == 1


def _cheaply(saved: list, inputs: tuple) -> list:
    """What was saved, but of inputs that can be made again how to do so."""
    again = {id(x.data): x.node.again for x in inputs if isinstance(x, Tensor) and x.node and x.node.again}
    return [again.get(id(x), x) for x in saved] if again else saved


def _made(saved):
    return saved()[0] if isinstance(saved, functools.partial) else saved


def _place(leaf: Tensor | None) -> tuple[np.ndarray | None, bool]:
    """Where the leaf's gradient may be written, and whether it is there already, to be added to."""
    if leaf is None:
        return None, False
    if leaf.grad is None:
        return leaf.grad_buffer, False
    fits = leaf.grad.flags.c_contiguous and leaf.grad.dtype == leaf.dtype
    return (leaf.grad, True) if fits else (None, False)


class Function:
    """An operation of one's own, in the shape of torch.autograd.Function, on NumPy arrays.

    >>> class Square(Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x
    ...     @staticmethod
    ...     def backward(ctx, dy):
    ...         (x,) = ctx.saved
    ...         return dy * 2 * x
    >>> y = Square.apply(x)

    `ctx.needs_input_grad` says which inputs want a gradient. The result is one array. Check it with `gradcheck`.
    """

    class Context:
        """What a forward keeps for its backward."""

        saved: tuple = ()
        needs_input_grad: tuple[bool, ...] = ()

        def save_for_backward(self, *arrays) -> None:
            """Keep these as `saved`; they are freed as soon as the backward has run."""
            self.saved = arrays

    @staticmethod
    def forward(ctx: Context, *inputs):
        """Return the result, an array, from the inputs: arrays for Tensors, other arguments as they were given."""
        raise NotImplementedError("a Function needs a forward")

    @staticmethod
    def backward(ctx: Context, dy: np.ndarray):
        """Return the gradient with respect to each input: one array, or a tuple with None for those that have none."""
        raise NotImplementedError("a Function needs a backward")

    @classmethod
    def apply(cls, *inputs) -> Tensor:
        """Run the forward and put the operation on the tape."""
        ctx = cls.Context()
        ctx.needs_input_grad = wants_gradient(inputs)
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        (y,) = watched("forward", cls.__name__, cls.forward, [ctx, *arrays], {})
        return record(cls.__name__, inputs, y, lambda dy: cls.backward(ctx, dy))


def wants_gradient(inputs: tuple) -> tuple[bool, ...]:
    """Which inputs are Tensors that require a gradient: none inside `no_grad`."""
    recording = _recording.get()
    return tuple(recording and isinstance(x, Tensor) and x.requires_grad for x in inputs)


def record(name: str, inputs: tuple, y: np.ndarray, backward: Callable, gathers: bool = False) -> Tensor:
    """Wrap y in a Tensor; if y is floating and an input requires a gradient, with the Node that will send it."""
    result = Tensor(y)
    if floating(result.dtype):
        wanted = wants_gradient(inputs)
        edges = tuple((x.node or x) if want else None for x, want in zip(inputs, wanted, strict=True))
        if any(edge is not None for edge in edges):
            result.requires_grad = True
            result.node = Node(name, edges, backward, result.data, gathers)
    return result


def backward(tensor: Tensor, gradient=None, retain_graph: bool = False) -> None:
    """Add to every leaf's `grad` the gradient of this tensor, weighted by `gradient` (1 for a single number).

    Raises RuntimeError where no gradient is wanted, where `gradient` is missing or of another shape, and on a second
    walk over operations whose saved arrays are freed.
    """
    if not tensor.requires_grad:
        raise RuntimeError("backward needs a tensor that requires a gradient: none of those it came from does")
    if gradient is None:
        if tensor.numel() != 1:
            raise RuntimeError(f"backward of a tensor of shape {tensor.shape} needs `gradient`, of the same shape")
        gradient = np.ones_like(tensor.data)
    gradient = Tensor(gradient, tensor.dtype).data
    if gradient.shape != tensor.shape:
        raise RuntimeError(f"gradient has shape {gradient.shape}, the tensor {tensor.shape}")
    if device_of(gradient) != tensor.device:
        raise RuntimeError(f"gradient is on {device_of(gradient)}, the tensor on {tensor.device}")
    if tensor.node:
        walk_back(tensor.node, gradient, retain_graph)
    else:
        tensor.accumulate_grad(gradient)


def walk_back(root: Node, gradient: np.ndarray, retain_graph: bool = False) -> None:
    """Send `gradient`, that of the loss with respect to the root's result, back to every leaf, adding to its `.grad`.

    Iterative, so as deep as memory allows. What an operation saved is freed once its backward has run, unless
    `retain_graph`. Raises RuntimeError, before any `.grad` is touched, on a graph that has been freed.
    """
    pending: dict[Node, int] = {root: 0}  # how many gradients a node still waits for
    stack = [root]
    while stack:
        node = stack.pop()
        if node.backward is None:
            raise RuntimeError(
                f"backward was already run through {node.name!r} and what it saved is freed: run the forward again, "
                "or keep it the first time with backward(retain_graph=True)"
            )
        for edge in node.edges:
            if isinstance(edge, Node):
                if edge not in pending:
                    pending[edge] = 0
                    stack.append(edge)
                pending[edge] += 1

    gradients, ready = {root: gradient}, [root]
    while ready:
        node = ready.pop()
        edges, backward, dy = node.edges, node.backward, gradients.pop(node, None)
        if not retain_graph:
            node.edges, node.backward, node.again = (), None, None
        inputs = (None,) * len(edges)  # of a node that no gradient reached; those behind it still wait for its word
        if dy is not None:
            options = {"arrived": gradients.pop(edges[0], None)} if node.gathers else {}
            inputs = watched("backward", node.name, backward, [dy], options)
        backward = options = None  # frees what it saved before the next one runs
        if any(edge is not None for edge in edges[len(inputs) :]):
            raise RuntimeError(
                f"the backward of {node.name!r} gave {len(inputs)} gradients, but an input after those requires one"
            )
        for position, (edge, dx) in enumerate(zip(edges, inputs, strict=False)):
            if edge is None:
                continue
            if dx is not None:
                if np.shape(dx) != edge.shape:
                    raise RuntimeError(
                        f"the backward of {node.name!r} gave its input {position} a gradient of shape "
                        f"{np.shape(dx)}, but the input has shape {edge.shape}"
                    )
                dx = array_module(dx).asarray(dx, dtype=edge.dtype)
                if isinstance(edge, Tensor):
                    if not (node.places and dx is edge.grad):  # else the backward has added it there
                        edge.accumulate_grad(dx, node.places and not retain_graph)
                elif edge in gradients:
                    add = kernels.select("add_forward", _add_forward, dx)
                    gradients[edge] = add(gradients[edge], dx)[0]
                else:
                    gradients[edge] = dx
            if isinstance(edge, Node):
                pending[edge] -= 1
                if pending[edge] == 0:
                    ready.append(edge)


def _add_forward(x, y):
    """Of two gradients that meet; a kernel for `tinygrad_llm.ops.add` serves here too."""
    return (x + y,)


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Inside this block, or this function when used as a decorator, no operation is put on the tape."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def is_grad_enabled() -> bool:
    """Whether operations are put on the tape here: not inside `no_grad`."""
    return _recording.get()


@contextlib.contextmanager
def watch(hook: Callable[[str, str, tuple, tuple, float], None]) -> Iterator[None]:
    """Call `hook(phase, name, inputs, outputs, seconds)` after every operation inside this block.

    In phase "forward" the inputs are the operation's, the outputs its result and what it saved; in phase "backward"
    the inputs are (dy,) and the outputs the gradients of its inputs, the first added to what had arrived where the
    backward does that (see `operation`). They are the arrays themselves, to look at, not to write.
    Optimizers are shown in phase "update", with the flat arrays that they work on: param, grad and their state.
    """
    _watchers.append(hook)
    try:
        yield
    finally:
        _watchers.remove(hook)


def watching() -> bool:
    """Whether anybody is shown the operations."""
    return bool(_watchers)


def watched(phase: str, name: str, function: Callable, inputs: list, options: dict) -> tuple:
    """Run the function, showing the watchers if there are any, and return its results as a tuple."""
    start = time.perf_counter() if _watchers else 0.0
    outputs = function(*inputs, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for hook in _watchers:
        hook(phase, name, tuple(inputs), outputs, time.perf_counter() - start)
    return outputs
