"""What every optimizer has: parameters in one flat array, groups that are slices of it, and its state as arrays."""

from collections.abc import Mapping

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd import watched
from tinygrad_llm.devices import device_of, on_device, to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.flat import flatten


def grad_norm_clip(grad: np.ndarray, max_norm: float) -> tuple[float, float]:
    """The norm of a flat gradient, and min(1, max_norm / (norm + 1e-6)), as in torch.nn.utils.clip_grad_norm_."""
    norm = np.sqrt(np.dot(grad, grad))
    if on_device(grad):
        return norm, np.minimum(max_norm / (norm + 1e-6), 1)
    return float(norm), clip_factor(float(norm), max_norm)


def clip_factor(norm: float, max_norm: float) -> float:
    """What brings gradients of this norm down to max_norm, and leaves smaller ones as they are."""
    return min(1.0, max_norm / (norm + 1e-6))


class Optimizer:
    """Changes parameters by their gradients. `lr` may be set before every step, as a schedule does.

    `parameters` is a list of Parameters or, as in torch, of groups {"params": [...], "weight_decay": ...}. Those that
    do not require a gradient are left alone. One that received no gradient counts as having a gradient of zero, so
    that it still decays, and momentum still moves it; torch would pass it over.
    """

    state: dict[str, np.ndarray]  # flat arrays, as long as `data`

    def __init__(self, parameters: list[Parameter] | list[dict], lr: float, weight_decay: float):
        groups = parameters if parameters and isinstance(parameters[0], dict) else [{"params": parameters}]
        kept = [[p for p in group["params"] if p.requires_grad] for group in groups]
        self.parameters = [p for group in kept for p in group]
        self.data, self.parts = flatten(self.parameters)
        self.groups: list[tuple[slice, float]] = []  # where a group lies in the flat array, and its weight decay
        start = 0
        for group, members in zip(groups, kept, strict=True):
            part = slice(start, start := start + sum(p.numel() for p in members))
            self.groups.append((part, group.get("weight_decay", weight_decay)))
        self.lr = lr
        self.steps = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def grad(self) -> np.ndarray:
        """A copy of the flat gradient, in the order of `data`."""
        return np.concatenate([part.gather() for part in self.parts])

    def clip_grad_norm(self, max_norm: float) -> tuple[float, float]:
        """The gradient's norm over all parameters, and the `scale` for `step` that brings it down to max_norm.

        The gradients stay as they are: the update multiplies as it reads them, which saves a pass. On a device both are
        arrays of one number, so that nobody waits for them.
        """
        run = kernels.select("grad_norm_clip", grad_norm_clip, self.data)
        options = {"max_norm": max_norm}
        norms = [watched("update", "clip_grad_norm", run, [part.gather()], options) for part in self.parts]
        if len(norms) == 1:
            return norms[0]
        norm = float(np.linalg.norm([norm for norm, _ in norms]))
        return norm, clip_factor(norm, max_norm)

    def step(self, scale: float = 1.0) -> None:
        """Update the parameters by `scale` times their gradients."""
        self.steps += 1
        for part in self.parts:
            grad = part.gather()
            for group, weight_decay in self.groups:
                start, stop = max(part.where.start, group.start), min(part.where.stop, group.stop)
                if start < stop:
                    mine = grad[start - part.where.start : stop - part.where.start]
                    arrays = [self.data[start:stop], mine, *(array[start:stop] for array in self.state.values())]
                    options = {"weight_decay": weight_decay, "scale": scale}
                    watched("update", type(self).__name__, self.update, arrays, options)

    def update(self, param: np.ndarray, grad: np.ndarray, *state: np.ndarray, weight_decay: float, scale: float):
        """Update one group in place: flat arrays."""
        raise NotImplementedError(f"{type(self).__name__} needs an update")

    def state_dict(self) -> dict[str, np.ndarray]:
        """The number of steps, and the state's arrays themselves, not copies. The learning rate is the schedule's."""
        return {"steps": np.array(self.steps), **self.state}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy what `state_dict` returned. Raises UserError, before anything is copied, for another optimizer's."""
        expected = {name: array.shape for name, array in self.state_dict().items()}
        found = {name: np.shape(array) for name, array in state.items()}
        if found != expected:
            raise UserError(f"the state {found} is not that of this {type(self).__name__}, {expected}")
        self.steps = int(state["steps"])
        for name, array in self.state.items():
            array[...] = to_device(state[name], device_of(array))
