"""The ladder of layernorm's CUDA kernels: every version of `kernels/cuda/versions` computes the same."""

import numpy as np
import pytest
from test_cuda_norms import LIMITS, ORDERS, VERSIONS, errors, exact, inputs_of, ours

from tinygrad_llm.kernels.cuda import layernorm
from tinygrad_llm.kernels.cuda.emulator import order
from tinygrad_llm.kernels.cuda.launch import FOLDER, instead

pytestmark = pytest.mark.usefixtures("cuda")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_the_ladder_computes_the_same(version, dtype, monkeypatch):
    with instead("layernorm.cu", FOLDER / version):
        for rows, width, most in [(5, 33, 512), (150, 8, 512), (3, 1400, 64)]:
            monkeypatch.setattr(layernorm, "MOST_THREADS", most)
            for name in ("layernorm", "layernorm without bias"):
                inputs = inputs_of(name, rows, width, dtype)
                expected, results = exact(name, inputs, dtype), []
                for each in ORDERS:
                    with order(each):
                        results.append(ours(name, inputs, dtype))
                    assert max(errors(results[-1], expected)) <= LIMITS[dtype], (each, rows, width)
                assert all(np.array_equal(a, b) for a, b in zip(results[0], results[2], strict=True) if a is not None)


def test_the_last_version_adds_the_residual():
    inputs = inputs_of("add_layernorm", 5, 33, "bfloat16")
    with instead("layernorm.cu", FOLDER / VERSIONS[-1]):
        results = ours("add_layernorm", inputs, "bfloat16")
    assert max(errors(results, exact("add_layernorm", inputs, "bfloat16"))) <= LIMITS["bfloat16"]
