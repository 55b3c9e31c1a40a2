"""Every kernel through NVIDIA's compiler: no spills, no stack, 16-byte accesses and tensor cores where they belong."""

import re

import pytest

from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda import compile
from tinygrad_llm.kernels.cuda.compile import (
    ARCHITECTURES,
    CONSTANTS,
    FOLDER,
    StaticAssertFailed,
    figures,
    files,
    instructions,
)

DOCS = FOLDER.parents[1] / "docs" / "kernels.md"
TENSOR = "attention_mma.cu"  # the file whose kernels need tensor cores


@pytest.mark.parametrize("file", files(), ids=lambda file: file.stem)
def test_no_kernel_spills_or_needs_a_stack(file):
    """Every architecture with float32, the other storage types with one; what float32 lacks, with float16."""
    usual = "float16" if file.name == TENSOR else "float32"
    compiled = [(usual, architecture, CONSTANTS.get(file.name, [{}])[0]) for architecture in ARCHITECTURES]
    compiled += [("bfloat16", "sm_80", constants) for constants in CONSTANTS.get(file.name, [{}])[-1:]]
    for dtype, architecture, constants in compiled:
        found = figures(file, dtype, architecture, **constants)
        assert found, "the compiler reports no kernel"
        wrong = {kernel: of for kernel, of in found.items() if of.stack or of.spills}
        assert not wrong, f"{dtype}, {architecture}, {constants}"


def test_tensor_cores_take_no_float32_and_turings_no_bfloat16():
    for dtype, architecture in (("float32", "sm_90"), ("bfloat16", "sm_75")):
        refused = f"{TENSOR} does not compile for {architecture}.*float16, and bfloat16"
        with pytest.raises(StaticAssertFailed, match=refused):
            figures(FOLDER / TENSOR, dtype, architecture)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_attention_uses_tensor_cores(dtype):
    for kernel, counts in instructions(FOLDER / TENSOR, dtype, "sm_80").items():
        assert counts["tensor"] >= 16, kernel


@pytest.mark.parametrize("file", ["layernorm.cu", "add.cu"])
def test_rows_move_16_bytes_at_a_time(file):
    for kernel, counts in instructions(FOLDER / file, "bfloat16", "sm_80").items():
        assert counts["vector"] > 0, kernel


def test_a_kernel_that_spills_is_seen(tmp_path):
    file = tmp_path / "greedy.cu"
    file.write_text("""
extern "C" __global__ void greedy(float* x, const int* at) {
  float kept[64];
  for (int i = 0; i < 64; ++i) kept[i] = x[i * 64 + threadIdx.x];
  for (int i = 0; i < 64; ++i) x[i] = kept[at[i]];
}
""")
    assert figures(file, "float32", "sm_80")["greedy"].stack == 256
    file.write_text("""extern "C" __global__ void greedy(float* x) { x[0] = y; }""")
    with pytest.raises(UserError, match=r'greedy.cu\(1\): error: identifier "y" is undefined'):
        figures(file, "float32", "sm_80")


def test_the_table_lists_every_kernel():
    """Register counts may be of another version of the compiler, which the table names."""
    listed = re.findall(r"^\| ([\w/.]+)[^|]*\| `(\w+)`", DOCS.read_text(), re.MULTILINE)
    there = {(str(f.relative_to(FOLDER)), kernel) for f in files() for kernel in kernels(f)}
    assert set(listed) == there, f"make it again: python -m {compile.__name__}"


def kernels(file) -> list[str]:
    dtype = "float16" if file.name == TENSOR else "float32"
    return list(figures(file, dtype, "sm_80", **CONSTANTS.get(file.name, [{}])[0]))
