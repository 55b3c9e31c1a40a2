"""From the start of a process to its first training step done, on step-char's model; caches cold and warm."""

from dataclasses import dataclass

from tinygrad_llm.bench import step_char
from tinygrad_llm.bench.step import FreshStep


@dataclass(frozen=True)
class Race(FreshStep):
    """`import` is `import tinygrad_llm` alone. The sides in -cold find no machine code of Numba's or torch.compile's
    from earlier runs; the others have what a first turn, which is not counted, left behind."""

    sides: str = "ours,import,ours-cold,eager,compile,compile-cold"
    rounds: int = 5
    steps: int = 1

    known = (*FreshStep.known, "import", "ours-cold", "compile-cold")
    config, shape = step_char.Race.config, step_char.Race.shape
