"""Module and Parameter: a tree of layers, and the tensors in it that are trained, with torch.nn's names."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from tinygrad_llm.devices import asarray, device_or_dtype, to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.quantization import Quantized
from tinygrad_llm.tensor import Tensor


class Parameter(Tensor):
    """A Tensor that a Module trains."""

    __slots__ = ()

    def __init__(self, data, dtype=None, requires_grad: bool = True):
        super().__init__(data, dtype, requires_grad)


_meta = contextvars.ContextVar("meta", default=False)


@contextlib.contextmanager
def meta() -> Iterator[None]:
    """Inside this block layers are made with shapes but without numbers or memory, as on torch's device "meta".

    Each parameter's `data` is to be replaced by an array that holds numbers.
    """
    token = _meta.set(True)
    try:
        yield
    finally:
        _meta.reset(token)


def initial(shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], np.ndarray]) -> np.ndarray:
    """The numbers, float32, that a parameter of this shape starts with: draw(shape), or none inside `meta`."""
    if _meta.get():
        return np.broadcast_to(np.float32(0), shape)
    return draw(shape).astype(np.float32, copy=False)


class Module:
    """A layer or a model. Its parameters are its attributes that are Parameters, and those of the Modules, or lists of
    Modules, among its attributes; an attribute's name, with dots between the levels, is the parameter's name."""

    training = True

    def forward(self, *inputs):
        raise NotImplementedError(f"{type(self).__name__} needs a forward")

    def __call__(self, *inputs, **options):
        return self.forward(*inputs, **options)

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules right below this one."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module))

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Every parameter below this module with its name, a shared one under each of its names."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """Every parameter below this module, each once."""
        return list({id(parameter): parameter for _, parameter in self.named_parameters()}.values())

    def numel(self) -> int:
        """How many numbers the parameters hold."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name: the arrays themselves, not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def check_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> None:
        """Raise UserError naming arrays of another shape than the parameter of their name and, if `strict`, those that
        are missing or unexpected."""
        own = dict(self.named_parameters())
        problems = [
            f"{name} has shape {tuple(np.shape(state[name]))}, not {own[name].shape}"
            for name in own.keys() & state.keys()
            if np.shape(state[name]) != own[name].shape
        ]
        if strict:
            problems += [f"{name} is missing" for name in own.keys() - state.keys()]
            problems += [f"{name} is unexpected" for name in state.keys() - own.keys()]
        if problems:
            shown = sorted(problems)[:5] + ([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])
            raise UserError(f"the state does not fit {type(self).__name__}: {'; '.join(shown)}")

    def load_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> None:
        """Copy arrays into the parameters of the same names, converting the dtype. Raises as `check_state_dict`, before
        anything is copied."""
        self.check_state_dict(state, strict)
        for name, parameter in self.named_parameters():
            if name in state:
                parameter.data[...] = to_device(asarray(state[name]), parameter.device)

    def train(self, mode: bool = True) -> "Module":
        """Make this module and all below it train, so that dropout drops, or not."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> "Module":
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, *targets) -> "Module":
        """Move the parameters to a device, convert them to a dtype, or both, in place: see `Tensor.to`. Quantized
        weights move too. Gradients are forgotten; optimizers are to be made afterwards."""
        for device, dtype in map(device_or_dtype, targets):
            for parameter in self.parameters():
                data = to_device(parameter.data, device or parameter.device)
                parameter.data = data if dtype is None else data.astype(dtype)
                parameter.grad = parameter.grad_buffer = None
            for module in self.modules():
                for name, value in vars(module).items():
                    if device and isinstance(value, Quantized):
                        setattr(module, name, replace(value, blocks=to_device(value.blocks, device)))
        return self

    @property
    def device(self) -> str:
        """Where the parameters are; "cpu" without any."""
        return next((parameter.device for _, parameter in self.named_parameters()), "cpu")

    def double(self) -> "Module":
        return self.to(np.float64)
