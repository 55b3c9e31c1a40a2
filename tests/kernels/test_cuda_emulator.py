"""The emulator: what it computes, and one planted fault of every kind, each with what catches it."""

import functools
import re
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda import emulator, launch
from tinygrad_llm.kernels.cuda.emulator import KernelError, sanitize

FAULTS = Path(__file__).with_name("cuda_faults.cu")
BLOCKS = 5

CAUGHT_BY = {
    "any run": [
        "divergent_barrier",
        "two_barriers",
        "absent_lane",
        "lane_outside_mask",
        "caller_outside_mask",
    ],
    "thread": ["race", "missing_syncthreads", "not_atomic", "missing_syncwarp", "missing_fence"],
    "address": ["overrun", "overrun_of_static", "overrun_of_dynamic"],
    "memory": ["uninitialized"],
}
SOUND = ["sound_reverse", "sound_atomic", "sound_warp", "sound_last_block"]


def library(dtype="float32", sanitizer=None):
    return emulator.build(launch.source(FAULTS), FAULTS.name, launch.options(dtype), sanitizer)


def run(name: str) -> np.ndarray:
    """A kernel of the file on x, ones; its y."""
    x, y = np.ones(BLOCKS * 64, np.float32), np.zeros(BLOCKS * 64, np.float32)
    extra = {
        "overrun": (np.int32(x.size),),
        "sound_last_block": (np.zeros(BLOCKS, np.float32), np.zeros(1, np.uint32)),
        "missing_fence": (np.zeros(BLOCKS, np.float32), np.zeros(1, np.uint32)),
    }.get(name, ())
    blocks = 1 if name.startswith(("overrun", "divergent", "two_", "absent", "lane_", "caller", "uninit")) else BLOCKS
    library().get_function(name)((blocks,), (64,), (x, y, *extra), shared_mem=256)
    return y


def run_all(names: list[str]) -> None:
    """In a process of its own, under a sanitizer."""
    for name in names:
        run(name)


@functools.cache
def found(sanitizer: str) -> list[str]:
    """What a sanitizer says to all the faults that it is for, and to the kernels without one."""
    return sanitize.call(sanitizer, run_all, [*SOUND, *CAUGHT_BY[sanitizer]])


def place(fault: str) -> str:
    line = next(n for n, text in enumerate(FAULTS.read_text().splitlines(), 1) if f"// fault: {fault}" in text + "\n")
    return f"{FAULTS.name}:{line}"


@pytest.mark.parametrize("name", CAUGHT_BY["any run"])
def test_any_run_catches(name):
    for order in ("forward", "reverse", "random"):
        with emulator.order(order), pytest.raises(KernelError, match=r"block 0, thread \d+") as error:
            run(name)
        assert order != "forward" or place(name) in str(error.value)


@pytest.mark.parametrize(
    ("sanitizer", "fault"), [(s, fault) for s in ("thread", "address", "memory") for fault in CAUGHT_BY[s]]
)
def test_a_sanitizer_catches(sanitizer, fault):
    assert any(place(fault) in line for line in found(sanitizer))


@pytest.mark.parametrize("sanitizer", ["thread", "address", "memory"])
def test_a_sanitizer_is_silent_about_the_rest(sanitizer):
    of_faults = [place(fault) for fault in CAUGHT_BY[sanitizer]]
    assert [line for line in found(sanitizer) if not any(fault in line for fault in of_faults)] == []


def test_a_planted_race_reads_as_two_lines_of_the_source():
    report = next(line for line in found("thread") if "missing_syncthreads::tile" in line)
    assert re.fullmatch(r"cuda_faults.cu:\d+ \(\w+ of 4 bytes\): data race on .* with cuda_faults.cu:\d+ .*", report)


def write_to_null() -> None:
    source = 'extern "C" __global__ void f(float* x) {\n  x[threadIdx.x] = 1;\n}'
    emulator.build(source, "null.cu").get_function("f")((1,), (1,), (np.uintp(0),))


def test_a_write_to_no_address_is_found():
    assert sanitize.call("address", write_to_null) == ["null.cu:2: SEGV"]


def test_a_report_without_a_line_of_a_kernel_is_not_lost():
    program = "import os; os.kill(os.getpid(), 11)"
    with pytest.raises(UserError, match="AddressSanitizer: SEGV"):
        sanitize.run("address", ["-c", program])


def test_a_program_that_fails_under_a_sanitizer_says_why():
    with pytest.raises(sanitize.ProgramFailed, match="ZeroDivisionError"):
        sanitize.run("memory", ["-c", "1 / 0"])


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("name", SOUND)
def test_sound_kernels_compute_the_same_in_every_order(name, order):
    with emulator.order(order, seed=1):
        y = run(name)
    expected = {"sound_reverse": 1, "sound_warp": 97}
    np.testing.assert_array_equal(y[:BLOCKS], expected.get(name, 64 if name == "sound_last_block" else BLOCKS))


def test_after_a_fault_the_next_launch_is_well():
    for _ in range(3):
        with pytest.raises(KernelError):
            run("divergent_barrier")
        assert (run("sound_warp") == 97).all()


def test_unwritten_shared_memory_is_nan():
    source = """
extern "C" __global__ void copy(float* y) {
  extern __shared__ float tile[];
  y[threadIdx.x] = tile[threadIdx.x];
}"""
    y = np.zeros(40, np.float32)
    emulator.build(source).get_function("copy")((1,), (40,), (y,), shared_mem=160)
    assert np.isnan(y).all()


TYPED = (np.ones(4, np.float32), np.empty(4, np.float32), np.int32(4), np.float32(2), np.int64(3), np.ones(4, bool))


@pytest.mark.parametrize(
    ("position", "argument"),
    [
        (0, np.ones(4)),  # double for float
        (0, np.ones(4, np.float16)),
        (0, np.float32(1)),
        (1, np.uintp(4096)),  # an address that nobody knows
        (2, np.int64(4)),
        (2, 4),
        (2, np.ones(1, np.int32)),
        (3, np.float64(2)),
        (3, 2.0),
        (5, np.ones(4, np.uint8)),
    ],
)
def test_arguments_must_be_of_the_kernels_types(position, argument):
    arguments = [*TYPED]
    arguments[position] = argument
    with pytest.raises(KernelError, match=f"argument {position + 1} must be "):
        library().get_function("typed")((1,), (4,), tuple(arguments))


def test_a_launch_is_checked_as_a_card_does_or_better():
    typed = library().get_function("typed")
    typed((1,), (4,), TYPED)
    np.testing.assert_array_equal(TYPED[1], 5)
    typed((1,), (4,), (*TYPED[:5], np.uintp(0)))
    np.testing.assert_array_equal(TYPED[1], 4)
    with pytest.raises(KernelError, match="takes 6 arguments, 5 were given"):
        typed((1,), (4,), TYPED[:5])
    with pytest.raises(KernelError, match="a grid of"):
        typed((0,), (4,), TYPED)
    with pytest.raises(KernelError, match="a block of"):
        typed((1,), (2048,), TYPED)
    with pytest.raises(KernelError, match="made for 128"):
        typed((1,), (256,), TYPED)
    with pytest.raises(KernelError, match="shared memory"):
        typed((1,), (4,), TYPED, shared_mem=64 * 1024)
    frozen = np.empty(4, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(KernelError, match="read-only"):
        typed((1,), (4,), (TYPED[0], frozen, *TYPED[2:]))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_storage_types(dtype):
    x, y = np.arange(1, 5).astype(dtype), np.empty(4, np.float32)
    name = np.dtype(dtype).name
    library(name).get_function("typed")((1,), (4,), (x, y, *TYPED[2:]))
    np.testing.assert_array_equal(y, [5, 7, 9, 11])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_tensor_cores(dtype):
    source = """
#include "mma.cuh"
extern "C" __global__ void product(const scalar* a, const scalar* b, float* c) {
  __shared__ __align__(16) scalar A[16][16], B[16][8];
  const int l = threadIdx.x;
  for (int i = l; i < 256; i += 32) A[i / 16][i % 16] = a[i];
  for (int i = l; i < 128; i += 32) B[i / 8][i % 8] = b[i];
  __syncwarp();
  unsigned of_a[4], of_b[4];
  load_matrices(of_a, &A[l % 8 + l / 8 % 2 * 8][l / 16 * 8]);
  load_matrices_transposed(of_b, &B[l % 16][0]);
  float of_c[4] = {};
  mma_16x8x16<scalar>(of_c, of_a, of_b);
  for (int i = 0; i < 4; ++i) c[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = of_c[i];
}
"""
    header = launch.source(launch.FOLDER / "mma.cuh")
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(dtype) for shape in ((16, 16), (16, 8)))
    c = np.empty((16, 8), np.float32)
    options = launch.options(np.dtype(dtype).name)
    text = header + source.replace('#include "mma.cuh"', "")
    emulator.build(text, "product.cu", options).get_function("product")((1,), (32,), (a, b, c))
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), atol=1e-6)


def test_a_library_is_made_once(monkeypatch):
    library()
    emulator.build.__globals__["_build"].cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("compiled again"))
    library()


def test_what_does_not_compile_says_where():
    with pytest.raises(UserError, match=r"mine\.cu:3:\d+: error: .*'y' was not declared"):
        emulator.build('\nextern "C" __global__ void f(float* x) {\n  x[0] = y;\n}\n', "mine.cu")
    with pytest.raises(UserError, match=r"mine\.cu has no kernel"):
        emulator.build("__global__ void f(float* x) {}", "mine.cu")
    with pytest.raises(UserError, match="there is no kernel g: there are f"):
        emulator.build('extern "C" __global__ void f(float* x) {}', "mine.cu").get_function("g")


def test_a_file_is_one_text_whose_lines_keep_their_numbers():
    text = launch.source(FAULTS)
    assert '#include "' not in text and '#line 1 "common.cuh"' in text
    marked = text[text.index('#line 3 "cuda_faults.cu"') :].splitlines()
    assert marked[1] == FAULTS.read_text().splitlines()[2]


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    version = emulator.build.__globals__["_compiler_version"]
    version.cache_clear()
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"g\+\+.*install"):
        version()
