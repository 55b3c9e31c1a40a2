"""How fast the kernels of an operation are on this machine: each set that has it takes turns with PyTorch.

It is the race of `tinygrad_llm.bench.ops`, of one operation, with a side for each kernel set: NumPy's page, Numba, a
file of one's own; CUDA's kernels, or one's own, only where there is a card, since an emulator's time says nothing.
"""

from dataclasses import dataclass
from importlib import util
from pathlib import Path

from tinygrad_llm import devices, kernels
from tinygrad_llm.bench import ops
from tinygrad_llm.errors import UserError
from tinygrad_llm.lab.source import operation_of, source
from tinygrad_llm.verification import operations


@dataclass(frozen=True)
class Race(ops.Race):
    """Every pair of an operation at the shapes of the models' steps.

    Args:
        sides: kernel sets, with commas between them, and eager, PyTorch's own; all that can run here unless given
        models: whose shapes, with commas between them; the cases of `verify` where none of them calls the operation
    """

    sides: str = ""
    models: str = "char,baby,124m,smollm2"

    name = "kernel-race"

    def __post_init__(self):
        if not self.sides:
            object.__setattr__(self, "sides", ",".join(self.known))
        super().__post_init__()

    @property
    def known(self) -> tuple[str, ...]:
        """A file of one's own first, then the sets that have the operation and a device to run on, then PyTorch."""
        own = (self.operations,) if is_file(self.operations) else ()
        return own + sides(self.operation)

    @property
    def operation(self) -> str:
        return operation_of(Path(self.operations)) if is_file(self.operations) else self.operations

    def cases(self) -> dict[str, dict]:
        return ops.cases_of(self.operation, self.models.split(","))


def sides(operation: str) -> tuple[str, ...]:
    """Who can compute the operation on this machine's real devices. Raises UserError for an unknown operation."""
    if operation not in {*operations(), ops.UPDATE}:
        raise UserError(f"no operation is called {operation}; there are {', '.join([*operations(), ops.UPDATE])}")
    sets = [name for name in kernels.builtin_sets() if operation in kernels.KernelSet(name).operations()]
    having = [name for name in sets if name != "cuda" or has_card()] or ["ours"]
    pytorch = ["eager"] if util.find_spec("torch") else []
    if pytorch and "cuda" in having and ops.torch_has_cuda():
        pytorch += ["eager-cuda"]
    return (*having, "numpy", *pytorch)


def has_card() -> bool:
    """Whether a GPU can be used; the emulator is none."""
    try:
        return not devices.emulating() and devices.cupy() is not None
    except UserError:
        return False


def is_file(name: str) -> bool:
    return Path(name).suffix in (".py", ".cu")


def race(operation: str, **settings) -> dict:
    """Time every pair of an operation, or a file of one's own beside them, CUDA's where there is a card.

    The settings are those of `Race`. Returns what `bench --json` prints: by case and phase, each side's median and
    quartiles in milliseconds. Raises UserError for an unknown operation, for a file that is not there, and for CUDA's
    without a card.
    """
    if is_file(operation):
        found = source(operation)
        if found.is_cuda and not has_card():
            reason = "races where there is a card; `kernel roofline` says what one needs at least"
            raise UserError(f"{found.path} is CUDA's, and {reason}")
        operation = str(found.path)
    return Race(operations=operation, **settings).run()
