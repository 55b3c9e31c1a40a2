"""Files to begin a kernel with: they load, compile, and a check says what they still lack."""

from pathlib import Path

import pytest

from tinygrad_llm import UserError, kernels, lab
from tinygrad_llm.kernels.cuda.emulator.build import translate
from tinygrad_llm.kernels.cuda.launch import FOLDER
from tinygrad_llm.verification import compare, operations


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_python_begins_with_the_page_for_every_operation():
    for name in operations():
        (file,) = lab.new(name, language="python")
        assert kernels.KernelSet(str(file)).operations() == [name]
    assert compare("softmax", "softmax.py", "float64").passed


def test_cuda_begins_with_the_plainest_version_or_the_entry_points():
    assert lab.new("layernorm") == [Path("layernorm.cu")]
    assert Path("layernorm.cu").read_text().endswith((FOLDER / "versions" / "layernorm_1.cu").read_text())
    assert lab.new("gelu", "mine/fast_gelu.cu") == [Path("mine/fast_gelu.cu")]
    text, original = Path("mine/fast_gelu.cu").read_text(), (FOLDER / "gelu.cu").read_text()
    assert translate(text, "")[0] == translate(original, "")[0]
    assert text.count("TODO") == len(translate(text, "")[0])
    assert "tinygrad-llm kernel check mine/fast_gelu.cu" in text


def test_an_operation_without_a_cuda_kernel_gets_a_wrapper_that_is_right_already():
    paths = lab.new("softmax")
    assert paths == [Path("softmax.cu"), Path("softmax.py")]
    report = lab.check("softmax.cu", sanitize=False)
    assert [finding.kind for finding in report.findings] == ["unused"]
    assert all(row.passed for row in report.values)
    assert "still to be written: softmax.cu:" in str(report) and ", softmax.py:" in str(report)


def test_nothing_is_overwritten():
    Path("softmax.py").write_text("mine")
    with pytest.raises(UserError, match=r"softmax.py is there already: give another name"):
        lab.new("softmax")
    assert not Path("softmax.cu").exists()
    assert Path("softmax.py").read_text() == "mine"
    with pytest.raises(UserError, match=r"softmax.cu must end in .py"):
        lab.new("softmax", "softmax.cu", language="python")
    with pytest.raises(UserError, match="no operation is called norm"):
        lab.new("norm")
