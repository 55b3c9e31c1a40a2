"""What a program computes with: the device, the precision of its products, the kernels, the threads."""

from typing import Any, Protocol

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda import precision
from tinygrad_llm.training.threads import set_threads


class Computing(Protocol):
    """The settings of it, which every command that computes has."""

    device: str
    precision: str
    kernels: str | None
    threads: int | None


def compute_as(settings: Computing, dtype: str = "float32") -> dict[str, Any]:
    """Compute as the settings say from now on, and return what their kernels and threads are here.

    Raises UserError for a device or kernels that there are not, and a precision that the device does not have.
    """
    if settings.kernels is not None:
        kernels.use(*settings.kernels.split(","))
    array = to_device(np.zeros(1, dtype), settings.device)
    if settings.device != "cpu":
        precision.use(settings.precision)
    elif settings.precision != "float32":
        raise UserError(f"precision {settings.precision} is a GPU's: leave it out, or give --device cuda")
    threads = set_threads(settings.threads)
    return {"kernels": ",".join(kernels.active(array)), "threads": threads}
