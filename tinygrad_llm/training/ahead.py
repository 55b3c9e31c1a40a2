"""Batches on a device: while the model learns from one, the next is copied there."""

from typing import Any

import numpy as np

from tinygrad_llm.data.batches import Batches
from tinygrad_llm.devices import cupy


class Ahead:
    """The batches of `batches`, tuples of arrays, on the device; with its state_dict, as if none were taken ahead.

    Copies run on a stream of their own, from pinned memory, where CuPy puts what it is given. The work waits for its
    batch, and a copy for what was to be done when it was asked for, since that may read the memory that it takes over.
    The host waits for neither.
    """

    def __init__(self, batches: Batches):
        self.batches, self.copies = batches, cupy().cuda.Stream(non_blocking=True)
        self.state, self.next = batches.state_dict(), None

    def __iter__(self) -> "Ahead":
        return self

    def __next__(self) -> tuple:
        on_device, copied, self.state, _ = self.next or self._copy()
        cupy().cuda.get_current_stream().wait_event(copied)
        self.next = self._copy()
        return on_device

    def _copy(self) -> tuple:
        """The next batch's arrays, the event of their arrival, the state behind them, and where they came from."""
        batch: tuple[np.ndarray, ...] = next(self.batches)
        self.copies.wait_event(cupy().cuda.get_current_stream().record())
        with self.copies:
            on_device = tuple(cupy().asarray(array) for array in batch)
        return on_device, self.copies.record(), self.batches.state_dict(), batch

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches.load_state_dict(state)
        self.state, self.next = state, None
