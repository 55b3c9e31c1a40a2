"""A model and the runs that are compared: as it is, once more, and with its parameters moved up and down."""

import copy
import functools

import numpy as np

from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.locator.traces import Key, Trace, doubled, named_modules, torch_of, trace
from tinygrad_llm.nn import Module
from tinygrad_llm.verification import largest, relative_error

FLOORS = {"float64": 1e-10, "float32": 4 * 2**-23, "float16": 2**-9, "bfloat16": 2**-6}


class Side:
    """One of the two models, copied."""

    def __init__(self, model, batch, kernel_sets: tuple[str, ...], double: bool):
        self.torch = None if isinstance(model, Module) else torch_of(model)
        self.model = doubled(model) if double else copy.deepcopy(model)
        self.batch, self.kernel_sets = batch, kernel_sets
        if not self.parameters or self.dtype not in FLOORS:
            raise UserError(f"the {type(model).__name__} has no floating parameters: there is nothing to compare")

    @property
    def parameters(self) -> list:
        return list(self.model.parameters())

    @property
    def dtype(self) -> str:
        return str(self.parameters[0].dtype).removeprefix("torch.")

    @functools.cached_property
    def trace(self) -> Trace:
        return trace(self.model, self.batch, self.kernel_sets)

    @functools.cached_property
    def again(self) -> Trace:
        return trace(self.model, self.batch, self.kernel_sets)

    @functools.cached_property
    def moved(self) -> tuple[Trace, Trace]:
        """Both ways, by what the dtype rounds to and no less than a millionth."""
        by = 2.0**-20 if self.dtype in ("float64", "float32") else 2.0**-6
        return tuple(trace(self.copy(sign * by), self.batch, self.kernel_sets) for sign in (1, -1))

    def copy(self, by: float = 0.0):
        """A copy of the model, each number of its parameters larger or smaller by this share, at random."""
        model, signs = copy.deepcopy(self.model), np.random.default_rng(1)
        for p in model.parameters() if by else ():
            factor = 1 + by * signs.choice([-1.0, 1.0], size=tuple(p.shape))
            if self.torch:
                with self.torch.no_grad():
                    p.mul_(self.torch.as_tensor(factor, dtype=p.dtype, device=p.device))
            else:
                p.data = p.data * to_device(factor.astype(p.dtype), p.device)
        return model

    def random(self, floor: float) -> Key | None:
        """The first array that is another one when the model runs again."""
        for key, x in self.trace.forward.items():
            if relative_error(self.again.forward[key], x, largest(x)) > floor:
                return key
        return None

    def dropping(self) -> str:
        """In words, the modules that are training with a dropout."""
        modules = named_modules(self.model) if not self.torch else self.model.named_modules()
        names = [
            name
            for name, module in modules
            if module.training
            and any(_is_share(x) for key, x in vars(module).items() if key == "p" or "dropout" in key)
        ]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        shown = ", ".join(name or "the model" for name in names[:3]) + more
        return f" Training, with a dropout: {shown}." if names else ""


def rounding(x: np.ndarray, up: np.ndarray, down: np.ndarray, scale: float) -> float:
    """That in an array, from those of the model moved up and down, as a share of `scale`."""
    return relative_error((up + down) / 2, x, scale) if scale else 0.0


def _is_share(x) -> bool:
    return isinstance(x, float) and 0 < x < 1
