"""Many launches in a row, with no Python in between: `tinygrad_llm.capture` and `decoding` have the uses."""

from collections.abc import Callable
from functools import cached_property, partial

import numba
import numpy as np

from tinygrad_llm.kernels.numba.threads import ARGUMENT, bind, run_all


class Program:
    """Leaves, and functions of the host's, with what they are given, to be run one after another again and again.

    It keeps the arrays: what changes from run to run is written into them. It runs on as many threads as there were
    when it was made, by which what leaves need for each thread was measured out.
    """

    def __init__(self):
        self.steps: list[list | Callable] = []  # lists of leaves to be run in a row, and functions
        self.kept: list[tuple] = []
        self.threads = numba.get_num_threads()

    def add(self, leaf: Callable, *arguments) -> None:
        """Let the leaf run, with these, after what was added before."""
        on_each_thread, function = leaf.addresses_for(arguments)
        data = np.empty(ARGUMENT * (len(arguments) + 1), np.uint8)
        caller = bind(function, arguments, data.ctypes.data)
        if not self.steps or callable(self.steps[-1]):
            self.steps.append([])
        self.steps[-1].append((on_each_thread, caller, data.ctypes.data))
        self.kept.append((data, arguments))

    def call(self, function: Callable, *arguments) -> None:
        """Let a function of the host's run, with these, after what was added before."""
        self.steps.append(partial(function, *arguments))

    def run(self) -> None:
        for step in self._ready:
            if callable(step):
                step()
            else:
                run_all(step, self.threads)

    @cached_property
    def _ready(self) -> list[np.ndarray | Callable]:
        return [step if callable(step) else np.array(step) for step in self.steps]
