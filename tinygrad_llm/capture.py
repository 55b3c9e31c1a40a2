"""Steps without Python: forward and backward of a loss, run again from a record of what they did.

A small GPT's step is a hundred launches of kernels, and Python takes longer to come to each than some of them take.
But it does the same every time. So `Captured` lets the operations and the tape do their work, and records it
(`recording`): each launch with its arrays, whose memory it keeps. New inputs are copied to where the first ones were,
and the record is run again, with nothing in between. As CUDA graphs do, and for the same price: what was recorded does
not look at what Python would have decided anew.

A record counts only when the next one is the same, call by call and array by array, and when it has given, with other
inputs and, after a step of the optimizer, other weights, the very bits that the operations gave. Where that never
happens, say with dropout, whose masks are always others, the operations go on as without it.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from tinygrad_llm import autograd, kernels
from tinygrad_llm.nn import Parameter
from tinygrad_llm.recording import Arena, Changed, Recording, address
from tinygrad_llm.tensor import Tensor

ATTEMPTS = 4  # to record a step that is like the one before
LARGE = 2**32
"""Parameters times tokens from which on a step has no record: it takes so long that Python's share is nothing."""


class Captured:
    """`loss(*arrays)` and its backward, from a record after the first calls with arrays of the same shapes and dtypes.

    `loss` returns a Tensor of one number, and is given arrays of the host's. `parameters` are all that receive a
    gradient. Between the calls they may be updated in place, as optimizers do; one that has another array for its
    `data` is noticed. Not noticed is what a model is told in other ways (make a new `Captured` where layers are frozen
    or settings changed), nor what Python decides by a look into arrays, unless `recording.decided` is asked.
    """

    def __init__(self, loss: Callable[..., Tensor], parameters: Sequence[Parameter]):
        self.loss, self.parameters = loss, parameters
        self.size = sum(parameter.numel() for parameter in parameters)
        self.weight = np.ones(())
        self.records: dict[tuple, Record] = {}

    def __call__(self, *arrays: np.ndarray, weight: float = 1.0) -> float:
        """Add the gradient of weight · loss(*arrays) to each parameter's `grad`, and return the loss."""
        large = self.size * max(x.size for x in arrays) > LARGE
        if large or autograd.watching() or kernels.find("program", kernels.HOST) is None:
            return self.run(arrays, weight).item()
        places = ((id(p.data), p.grad is not None and address(p.grad)) for p in self.parameters)
        key = weight, *kernels.active(), *((x.shape, x.dtype.str) for x in arrays), *places
        if key not in self.records:
            self.records[key] = Record(arrays, self.parameters)
        return self.records[key].step(self, arrays, weight)

    def run(self, arrays: Sequence[np.ndarray], weight: float) -> Tensor:
        """As the operations and the tape do it."""
        loss = self.loss(*arrays)
        if (self.weight, self.weight.dtype) != (weight, loss.dtype):
            self.weight = np.array(weight, loss.dtype)  # the same array every time
        loss.backward(self.weight)
        return loss


class Record:
    """What one step did, to be done again: `ready` once it is known to be the whole of it."""

    def __init__(self, arrays: Sequence[np.ndarray], parameters: Sequence[Parameter]):
        self.inputs, self.parameters = [x.copy() for x in arrays], parameters
        self.data = [parameter.data for parameter in parameters]
        self.arena, self.recording = Arena(), None
        self.attempts, self.ready = 0, False

    def step(self, captured: Captured, arrays: Sequence[np.ndarray], weight: float) -> float:
        for mine, x in zip(self.inputs, arrays, strict=True):
            mine[...] = x
        if self.ready:
            try:
                return self.run()
            except Changed:
                return captured.run(arrays, weight).item()
        if self.attempts == ATTEMPTS:
            return captured.run(arrays, weight).item()
        replayed = self.tried() if self.recording else None
        made = Recording(kernels.find("program", kernels.HOST).Program(), self.arena)
        with made:
            loss = captured.run(self.inputs, weight)
        self.loss = self.arena.lasting(loss.data)
        self.gradients = [self.arena.lasting(parameter.grad) for parameter in self.parameters]
        self.ready = made == self.recording and self.checksums() == replayed
        self.recording, self.attempts = made, self.attempts + 1
        if self.attempts == ATTEMPTS and not self.ready:
            self.arena = self.recording = None  # their memory
        return loss.item()

    def run(self) -> float:
        """Run the record, and return the loss."""
        self.recording.program.run()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss.item()

    def tried(self) -> list[int] | None:
        """The checksums of what a run of the record gives, which leaves no trace; None if it does not hold."""
        before = [None if p.grad is None else (p.grad, p.grad.copy()) for p in self.parameters]
        try:
            self.run()
            return self.checksums()
        except Changed:
            return None
        finally:
            for parameter, gradient in zip(self.parameters, before, strict=True):
                parameter.grad = None if gradient is None else gradient[0]
                if gradient is not None:
                    parameter.grad[...] = gradient[1]

    def checksums(self) -> list[int]:
        """Of the loss and all gradients."""
        return [0 if x is None else zlib.crc32(np.ascontiguousarray(x)) for x in (self.loss, *self.gradients)]
