"""`tinygrad-llm gpu-check`"""

from dataclasses import dataclass

from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.lab.gpu_check import NOT_RUN, gpu_check

DESCRIPTION = f"""Rerun the tests of the CUDA kernels on this machine's GPU, and write one file that can be sent to us.

It compares every kernel with PyTorch in float32, float16 and bfloat16, trains a tiny GPT for ten steps on the CPU and
on the GPU, runs both again under compute-sanitizer where that is installed, and races the kernels. In a checkout of the
source, after pip install -e '.[test]', it runs the kernels' own tests too. A failure stops nothing. The file holds the
card, its driver, versions and results; no names, no paths. Exit status 1 if any fails.

This command has {NOT_RUN}.

examples:
  tinygrad-llm gpu-check
  tinygrad-llm gpu-check --emulated      the first two on the emulator
"""


@dataclass(frozen=True)
class Settings:
    """Where the results go.

    Args:
        out: the file to write
    """

    out: str = "gpu-check.json"


def run(argv: list[str]) -> int:
    parser = Parser("gpu-check", DESCRIPTION, Settings)
    parser.add_argument("--emulated", action="store_true", help="run on the emulator, where there is no GPU")
    settings = parser.settings(argv)
    result = gpu_check(**settings)
    verdict = "all passed" if result["passed"] else "something FAILED"
    print(f"{result['where']['card']}: {verdict}; {settings['out']} says what: please send it to the project")
    return int(not result["passed"])
