"""Many parameters as views of one flat array, so that an update is one pass over memory whatever the model."""

import numpy as np

from tinygrad_llm.devices import device_of
from tinygrad_llm.errors import UserError
from tinygrad_llm.memory import empty, zeros
from tinygrad_llm.nn import Parameter


def flatten(parameters: list[Parameter]) -> tuple[np.ndarray, np.ndarray]:
    """Move the parameters into one flat array, in their order, and return it and that of their gradients.

    Each parameter's `data` becomes a view of the first and its `grad_buffer` one of the second. Move a model to
    its device and dtype before, since `Module.to` makes new arrays. Raises UserError for no parameters, one given
    twice, and mixed dtypes or devices.
    """
    if not parameters:
        raise UserError("an optimizer needs at least one parameter that requires a gradient")
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise UserError("a parameter was given to the optimizer twice")
    if len(dtypes := {parameter.dtype.name for parameter in parameters}) > 1:
        raise UserError(f"the parameters of one optimizer have one dtype, not {' and '.join(sorted(dtypes))}")
    if len(devices := {device_of(parameter.data) for parameter in parameters}) > 1:
        raise UserError(f"the parameters of one optimizer are on one device, not {' and '.join(sorted(devices))}")
    size, dtype, like = sum(parameter.numel() for parameter in parameters), parameters[0].dtype, parameters[0].data
    data, grad = empty((size,), dtype, like), zeros((size,), dtype, like)
    np.concatenate([parameter.data.reshape(-1) for parameter in parameters], out=data)
    start = 0
    for parameter in parameters:
        part = slice(start, start := start + parameter.numel())
        parameter.data = data[part].reshape(parameter.shape)
        parameter.grad_buffer = grad[part].reshape(parameter.shape)
        parameter.grad = None
    return data, grad


def decay_groups(parameters: list[Parameter], weight_decay: float) -> list[dict]:
    """Groups for an optimizer, as nanoGPT forms them: matrices and embeddings decay, biases and norms do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
