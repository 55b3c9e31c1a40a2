"""Freed memory is kept: large arrays that come and go touch no new pages."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from tinygrad_llm.memory import keep_freed_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(2**20)  # 8 MB, 2048 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
faults(3)
print(faults(50))
"""


def faults(how: str) -> int:
    result = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_freed_memory_is_used_again():
    assert faults("keep") < 50 * 2048 // 20
