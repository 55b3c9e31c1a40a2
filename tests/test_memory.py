"""What one step frees, the next one has: a run asks for no memory after its first steps, however long it goes on."""

import subprocess
import sys

import numpy as np
import pytest

from tinygrad_llm.memory import PAGE, empty, zeros

linux = pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does, and sets what glibc has")

ARRAYS = """
import resource, sys
import numpy as np
from tinygrad_llm.memory import keep_freed_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(2**20)  # 8 MB, 2048 pages
        np.ones(2**23)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
faults(3)
print(faults(50))
"""

STEPS = """
import os, resource, sys
import numpy as np
from tinygrad_llm.capture import Captured
from tinygrad_llm.memory import PAGE, keep_freed_memory
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.optim import AdamW

keep_freed_memory()
layers, width, block, steps, capture = map(int, sys.argv[1:])
config = GPTConfig(vocab_size=65, block_size=block, n_layer=layers, n_head=2, n_embd=width)
model = GPT(config)
optimizer, captured = AdamW(model.parameters()), Captured(model.loss, model.parameters())
ids, targets = np.random.default_rng(0).integers(0, 65, (2, 12, block))

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def train(steps):
    for _ in range(steps):
        optimizer.zero_grad()
        captured(ids, targets) if capture else captured.run((ids, targets), 1.0)
        _, scale = optimizer.clip_grad_norm(1.0)
        optimizer.step(scale)

train(20)
memory, faults = resident(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
train(steps)
print(resident() - memory, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def run(code: str, *arguments) -> list[int]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return [int(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@linux
def test_freed_memory_is_used_again():
    (faults,) = run(ARRAYS, "keep")
    assert faults < 50 * 2048 // 20


@linux
@pytest.mark.parametrize("capture", [0, 1], ids=["operations", "record"])
def test_a_step_after_the_first_few_asks_for_nothing_large(capture):
    """A step of this model allocates 25 MB in all; a page is 4 kB."""
    grown, faults = run(STEPS, 2, 128, 64, 50, capture)
    assert grown < 2**20
    assert faults < 50 * 16


@linux
@pytest.mark.parametrize("capture", [0, 1], ids=["operations", "record"])
@pytest.mark.parametrize("steps", [2_500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow(steps, capture):
    """An array of 4 kB that a step leaves behind would make 10 MB, and so would the smallest, of 1 kB, in 10,000 steps;
    the heap settles within 4 MB."""
    grown, _ = run(STEPS, 1, 16, 16, steps, capture)
    assert grown < 8 * 2**20


def test_large_arrays_begin_at_a_page():
    for shape in ((4096,), (97, 1023), (3, 5, 7, 129)):
        array = empty(shape, np.float32)
        assert array.ctypes.data % PAGE == 0
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, np.float32, True)
    assert empty((3, 0), np.float64).shape == (3, 0)
    assert (zeros((97, 1023), np.float64) == 0).all()
