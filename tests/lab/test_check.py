"""A check of a kernel: what is wrong comes back with its kind, its line and its first wrong element."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinygrad_llm import UserError, lab
from tinygrad_llm.kernels.cuda.launch import FOLDER
from tinygrad_llm.lab.report import Finding, finding_of
from tinygrad_llm.lab.source import operation_of, source
from tinygrad_llm.lab.values import at

KERNEL = """#include "common.cuh"

extern "C" __global__ void exp_forward(const float* x, float* y, int n) {
  __shared__ float tile[64];
  const int i = blockIdx.x * 64 + threadIdx.x;
  tile[threadIdx.x] = i < n ? expf(x[i]) : 0.0f;
  __syncthreads();
  if (i < n) y[i] = tile[63 - (63 - threadIdx.x)];
}

extern "C" __global__ void exp_backward(const float* dy, const float* y, float* dx, int n) {
  const int i = blockIdx.x * 64 + threadIdx.x;
  if (i < n) dx[i] = dy[i] * y[i];
}
"""

WRAPPER = '''
from pathlib import Path

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.launch import kernel


def run(name, *arrays):
    y = cupy().empty(arrays[0].shape, arrays[0].dtype)
    arrays = [cupy().ascontiguousarray(x) for x in arrays]
    launch = kernel(Path(__file__).with_suffix(".cu"), name, y.dtype)
    if y.size:
        launch((-(-y.size // 64),), (64,), (*arrays, y, np.int32(y.size)))
    return y


def exp_forward(x):
    y = run("exp_forward", x)
    return y, y


def exp_backward(dy, y):
    return run("exp_backward", dy, y)
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes the kernel, with some of its text replaced, and its wrapper."""
    monkeypatch.chdir(tmp_path)

    def write(**replaced: tuple[str, str]) -> str:
        text = KERNEL
        for old, new in replaced.values():
            assert old in text
            text = text.replace(old, new)
        Path("my_exp.py").write_text(WRAPPER)
        Path("my_exp.cu").write_text(text)
        return "my_exp.cu"

    return write


def line(text: str) -> str:
    return f"my_exp.cu:{KERNEL[: KERNEL.index(text)].count(chr(10)) + 1}"


def test_a_right_kernel_passes(file):
    report = lab.check(file(), sanitize=False)
    assert report.passed and not report.findings
    assert report.verdict == "my_exp.cu: passed as exp"
    assert [(row.dtype, row.order) for row in report.values] == [
        ("float32", order) for order in ("forward", "reverse", "random")
    ]
    assert all(0 < row.errors["y"] < 1e-6 and row.errors["dx"] < 1e-6 for row in report.values)
    assert {(row.kernel, row.architecture) for row in report.compiled} >= {("exp_forward", "sm_75")}
    assert all(row.registers > 0 and row.stack == row.spills == 0 for row in report.compiled)
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True
    assert "float32" in str(report) and "not yet timed on a GPU" in str(report)


def test_races_and_overruns_come_with_their_lines(file):
    report = lab.check(
        file(
            race=("63 - (63 - threadIdx.x)", "63 - threadIdx.x"),
            barrier=("  __syncthreads();\n", "\n"),
            overrun=("(i < n) dx", "(i <= n) dx"),
        )
    )
    found = {(finding.kind, finding.where) for finding in report.findings}
    assert found & {("race", line("if (i < n) y")), ("race", line("tile[threadIdx.x] ="))}
    assert ("overrun", line("(i < n) dx")) in found
    assert report.sanitized["thread"] and report.sanitized["address"]
    assert "> if (i <= n) dx[i] = dy[i] * y[i];" in str(report)


def test_a_divergent_barrier_and_a_wrong_value(file):
    barrier = "  __syncthreads();\n"
    report = lab.check(file(divergent=(barrier, f"  if (threadIdx.x < 7){barrier}")), sanitize=False)
    assert ("divergence", line(barrier)) in {(finding.kind, finding.where) for finding in report.findings}
    report = lab.check(file(wrong=("dy[i] * y[i]", "dy[i] + y[i]")), sanitize=False)
    (finding,) = report.findings
    assert finding.kind == "value"
    assert finding.message.startswith("dx[0, 0] is ") and "should be" in finding.message
    assert "inputs there: x[0, 0] = " in finding.details[1] and "dy[0, 0] = " in finding.details[1]
    assert not report.passed and "FAILED as exp: 1 × value" in str(report)


def test_what_does_not_compile_comes_with_the_first_error(file):
    report = lab.check(file(unknown=("expf(x[i])", "expf(z[i])")))
    (finding,) = report.findings
    assert (finding.kind, finding.where) == ("compile", line("expf"))
    assert "z" in finding.message
    assert not report.values


def test_a_file_alone_is_launched_by_the_projects_wrapper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / "versions" / "layernorm_1.cu").read_text()
    other = text.replace("int rows, int width, float eps", "int rows, float eps, int width")
    (tmp_path / "layernorm.cu").write_text(other)
    with pytest.raises(UserError, match=r"layernorm.cu:\d+: layernorm_forward\(.*\) must be layernorm_forward\("):
        lab.check("layernorm.cu")
    (tmp_path / "layernorm.cu").write_text(text.replace("layernorm_", "norm_"))
    with pytest.raises(UserError, match=r"has norm_forward.* where layernorm.cu has layernorm_forward"):
        lab.check("layernorm.cu")


def test_a_python_kernel_is_compared_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_exp.py").write_text(
        "import numpy as np\n\ndef exp_forward(x):\n    y = np.exp(x)\n    return y, y\n\n"
        "def exp_backward(dy, y):\n    raise KeyError(3)\n"
    )
    report = lab.check("my_exp.py")
    (finding,) = report.findings
    assert (finding.kind, finding.where, finding.message) == ("error", "my_exp.py:8", "KeyError: 3")
    assert [row.dtype for row in report.values] == ["float64", "float32"]


def test_a_result_of_another_dtype_or_missing_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right = "import numpy as np\n\ndef exp_forward(x):\n    y = np.exp(x)\n    return y, y\n\n"
    (tmp_path / "wide_exp.py").write_text(
        right.replace("np.exp(x)", "np.exp(x).astype(np.float64)") + "def exp_backward(dy, y):\n    return dy * y\n"
    )
    report = lab.check("wide_exp.py")
    assert {(finding.kind, finding.message) for finding in report.findings} == {
        ("value", "y is float64, PyTorch's float32")
    }


def test_the_operation_is_in_the_name():
    names = {"layernorm.cu": "layernorm", "my_attention_qkvpacked-2.cu": "attention_qkvpacked", "gelu_1.py": "gelu"}
    assert {name: operation_of(Path(name)) for name in names} == names
    with pytest.raises(UserError, match=r"may be of .*add --operation"):
        operation_of(Path("gelu_or_exp.cu"))
    with pytest.raises(UserError, match="is not named after an operation"):
        operation_of(Path("fast.cu"))
    with pytest.raises(UserError, match="no operation is called fast"):
        operation_of(Path("gelu.cu"), "fast")


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "softmax.cu").write_text("")
    (tmp_path / "notes.txt").write_text("")
    for name, message in {
        "softmax.cu": "nothing launches softmax.cu: the project has no CUDA kernel of softmax",
        "notes.txt": "is no kernel: give a .cu or a .py file",
        "gelu.cu": "there is no file gelu.cu: .*kernel new",
    }.items():
        with pytest.raises(UserError, match=message):
            source(name)


def test_what_emulator_and_sanitizers_say_is_understood():
    said = {
        "exp_forward: my_exp.cu:7: __syncthreads() in a branch (block (0, 0, 0), thread (1, 0, 0))": (
            "divergence", "my_exp.cu:7", ("in exp_forward",),
        ),
        "exp_forward: common.cuh:85 in my_exp.cu:12: the calling lane 3 is not in the mask": (
            "mask", "common.cuh:85", ("in exp_forward", "from my_exp.cu:12"),
        ),
        "my_exp.cu:8 (read of 4 bytes): data race on tile with my_exp.cu:6 (write of 4 bytes)": (
            "race", "my_exp.cu:8", (),
        ),
        "my_exp.cu:8 (write of 4 bytes): heap-buffer-overflow": ("overrun", "my_exp.cu:8", ()),
    }  # fmt: skip
    for text, (kind, where, details) in said.items():
        finding = finding_of(text)
        assert (finding.kind, finding.where, finding.details) == (kind, where, details)
        assert finding.advice
    assert finding_of("no place at all") == Finding("error", "no place at all")


def test_what_of_an_input_meets_an_element():
    x = np.arange(6.0).reshape(2, 3)
    assert at(x, (1, 2), (2, 3)) == "[1, 2] = 5"
    assert at(x[0], (1, 2), (2, 3)) == "[2] = 2"
    assert at(x, (2,), (3,)) == "[:, 2] = (2, 5)"
    assert at(x[:, :1], (1, 2), (2, 3)) == "[1, 0] = 3"
    assert at(np.array(7.0), (1, 2), (2, 3)) == " = 7"
