"""Many parameters as views of one flat array, so that an update is few passes over memory whatever the model."""

from itertools import groupby
from typing import NamedTuple

import numpy as np

from tinygrad_llm.devices import device_of, on_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.memory import empty, zeros
from tinygrad_llm.nn import Parameter

LARGE = 2**18  # numbers


class Part(NamedTuple):
    """Neighbors in the flat array, and one array of their gradients, of which each one's `grad_buffer` is a view.

    A large parameter is a part of its own without such an array: its gradient has memory only from its backward until
    it is forgotten. The forward needs none, and keeps most for the backward: what the gradients give up is then free
    for that, and what the backward frees for the gradients. On a device, where each part is launches of kernels, all
    are one part.
    """

    where: slice
    parameters: list[Parameter]
    grad: np.ndarray | None

    def gather(self) -> np.ndarray:
        """The flat gradient: there already, but for zeros where none was received and what was set by hand."""
        if self.grad is None:
            (parameter,) = self.parameters
            grad = np.zeros_like(parameter.data) if parameter.grad is None else parameter.grad
            return np.ascontiguousarray(grad, parameter.dtype).reshape(-1)
        for parameter in self.parameters:
            if parameter.grad is not parameter.grad_buffer:
                parameter.grad_buffer[...] = 0 if parameter.grad is None else parameter.grad
        return self.grad


def flatten(parameters: list[Parameter]) -> tuple[np.ndarray, list[Part]]:
    """Move the parameters into one flat array, in their order, and return it and its parts.

    Each parameter's `data` becomes a view of the array. Move a model to its device and dtype before, since `Module.to`
    makes new arrays. Raises UserError for no parameters, one given twice, and mixed dtypes or devices.
    """
    if not parameters:
        raise UserError("an optimizer needs at least one parameter that requires a gradient")
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise UserError("a parameter was given to the optimizer twice")
    if len(dtypes := {parameter.dtype.name for parameter in parameters}) > 1:
        raise UserError(f"the parameters of one optimizer have one dtype, not {' and '.join(sorted(dtypes))}")
    if len(devices := {device_of(parameter.data) for parameter in parameters}) > 1:
        raise UserError(f"the parameters of one optimizer are on one device, not {' and '.join(sorted(devices))}")
    data = empty((sum(p.numel() for p in parameters),), parameters[0].dtype, parameters[0].data)
    np.concatenate([parameter.data.reshape(-1) for parameter in parameters], out=data)
    parts, start = [], 0
    for large, members in groupby(parameters, lambda p: p.numel() >= LARGE and not on_device(data) and id(p)):
        members = list(members)
        where = slice(start, start + sum(parameter.numel() for parameter in members))
        grad = None if large else zeros((where.stop - start,), data.dtype, data)
        for parameter in members:
            first, start = start, start + parameter.numel()
            parameter.data = data[first:start].reshape(parameter.shape)
            own = None if large else grad[first - where.start : start - where.start].reshape(parameter.shape)
            parameter.grad, parameter.grad_buffer = None, own
        parts.append(Part(where, members, grad))
    return data, parts


def decay_groups(parameters: list[Parameter], weight_decay: float) -> list[dict]:
    """Groups for an optimizer, as nanoGPT forms them: matrices and embeddings decay, biases and norms do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
