"""Every CUDA kernel under the sanitizers, on the inputs on which it is compared with PyTorch."""

import pytest

from tinygrad_llm import kernels
from tinygrad_llm.kernels.cuda.emulator import sanitize
from tinygrad_llm.verification import operations, oracles, place_for, run

OPERATIONS = sorted(set(kernels.KernelSet("cuda").operations()) & set(operations()))


def run_forward_and_backward(names: list[str]) -> None:
    """In a process of its own: the kernels of these operations on all their cases."""
    with kernels.use("cuda"), place_for("cuda") as device:
        for name in names:
            for case in oracles()[name].cases:
                inputs, options = case.make(0)
                run(operations()[name], inputs, options, "float32", device=device)


@pytest.mark.parametrize("sanitizer", ["thread", "address", "memory"])
def test_no_kernel_races_overruns_or_reads_what_nobody_wrote(sanitizer):
    assert sanitize.call(sanitizer, run_forward_and_backward, OPERATIONS) == []
