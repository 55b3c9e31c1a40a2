"""The kernels on machines with shorter vectors than this one's: the same source, compiled for what they have."""

import os
import platform
import subprocess
import sys

import llvmlite.binding as llvm
import pytest

CODE = """
from tinygrad_llm.kernels.numba import vectors
from tinygrad_llm.verification import compare

assert vectors.BITS == 256
pairs = [("linear", "float64"), *((name, "float32") for name in ("linear", "quantized_linear", "attention_qkvpacked"))]
for name, dtype in pairs:  # every compilation costs seconds
    failures = compare(name, "numba", dtype, seeds=(0,)).failures
    assert not failures, failures
print("agrees")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks for one of x86's processors")
def test_the_products_agree_with_pytorch_on_256_bit_vectors(tmp_path):
    if not llvm.get_host_cpu_features().get("fma"):
        pytest.skip("this machine has no 256-bit multiply-add")
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+f16c"}
    environment = {**os.environ, **narrow, "NUMBA_CACHE_DIR": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
    assert result.stdout == "agrees\n", result.stderr
