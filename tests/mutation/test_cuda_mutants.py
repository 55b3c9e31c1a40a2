"""Mutants of CUDA kernels: what is changed, the schema that is all of them, and what sees them."""

import os
import signal

import numpy as np
import pytest

from tinygrad_llm.kernels.cuda.emulator import build
from tinygrad_llm.kernels.cuda.launch import FOLDER
from tinygrad_llm.mutation import argued, emulated
from tinygrad_llm.mutation.apart import outcome
from tinygrad_llm.mutation.cuda import VARIABLE, change, edits, schema

SOURCE = """// y = 2 x + 1, of n numbers
constexpr int TWO = 2;
extern "C" __global__ void line(const float* x, float* y, int n) {
  const int i = threadIdx.x;
#pragma unroll 4
  __syncwarp();
  if (i >= n) return;  // i + 1
  y[i] = TWO * x[i] + 1;
}
"""


def compute(source: str) -> np.ndarray:
    x, y = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    build(source).get_function("line")((1,), (32,), (x, y, np.int32(3)))
    return y


def forked(source: str, number: int, monkeypatch) -> str:
    monkeypatch.setenv(VARIABLE, str(number))
    return outcome(lambda: repr(compute(source).tolist()), 60)


def test_what_is_changed():
    assert [change(SOURCE, edit).what for edit in edits(SOURCE)] == [
        "constexpr int TWO = «2 → 2 + 1»;",
        "constexpr int TWO = «2 → 2 - 1»;",
        "«__syncwarp(); → ;»",
        "if «(i >= n) → (true)» return; // i + 1",
        "if «(i >= n) → (false)» return; // i + 1",
        "if («i >= n → i > n») return; // i + 1",
        "«y[i] = TWO * x[i] + 1; → ;»",
        "y[i] = «TWO * x[i] + 1 → TWO * x[i] - 1»;",
        "y[i] = «TWO * x[i] + 1 → TWO * x[i]»;",
        "y[i] = «TWO * x[i] + 1 → 1»;",
        "y[i] = «TWO * x[i] → TWO / x[i]» + 1;",
        "y[i] = «TWO * x[i] → TWO» + 1;",
        "y[i] = «TWO * x[i] → x[i]» + 1;",
        "y[i] = TWO * x[i] + «1 → 1 + 1»;",
    ]


def test_a_schema_is_each_of_its_mutants(monkeypatch):
    """As each it computes what the mutant does that is compiled by itself, and as none what the source does."""
    found = [edit for edit in edits(SOURCE) if not edit.apart]
    whole, _ = schema(SOURCE, found)
    assert whole.count("\n") == SOURCE.count("\n")
    assert forked(whole, -1, monkeypatch) == repr(compute(SOURCE).tolist())
    for number in (0, 1, 5, 7):
        assert forked(whole, number, monkeypatch) == repr(compute(change(SOURCE, found[number]).source).tolist())


def test_what_must_be_known_to_the_compiler_is_apart():
    assert [edit.new for edit in edits(SOURCE) if edit.apart] == ["2 + 1", "2 - 1"]


def test_a_mutant_may_crash_and_never_end_and_say_much():
    assert outcome(lambda: os.kill(os.getpid(), signal.SIGKILL), 10) == "a crash"
    assert outcome(lambda: exec("while True: pass"), 0.5) == "the clock"
    assert outcome(lambda: "error\n" * 10**5, 5) == "error\n" * 10**5


def test_every_mutant_of_a_small_kernel_is_seen():
    """In float32 alone. What the compiler refuses, as a number where a pointer is meant, is no mutant."""
    found = edits((FOLDER / "add.cu").read_text())
    said = emulated.compared("float32", ["add"], "add.cu", found)
    assert "" not in said
    assert said.count(emulated.REFUSED) < len(said) / 3


@pytest.mark.parametrize("file", emulated.names())
def test_every_argument_is_about_a_mutant(file):
    text = (FOLDER / file).read_text()
    about = {what for place, what in argued() if place == f"cuda/{file}"}
    assert about <= {change(text, edit).what for edit in edits(text)}


@pytest.mark.slow
@pytest.mark.parametrize("file", emulated.names())
def test_every_mutant_is_seen_or_argued(file):
    left = [found.what for found, verdict in emulated.judged(file) if verdict == "survived"]
    assert set(left) <= {what for place, what in argued() if place == f"cuda/{file}"}
