"""`tinygrad-llm explain`"""

import ast
import difflib
import functools
import inspect
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

import tinygrad_llm
from tinygrad_llm import activations, kernels, roofline
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import GPT, LLAMA_PRESETS, PRESETS, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.verification import operations, oracles

ROOT = Path(tinygrad_llm.__file__).parents[1]
BYTES = 256  # the vocabulary of a preset that has what its tokenizer has
DESCRIPTION = """Show an operation from its source: derivation, forward and backward, kernels, PyTorch's side and tests.

With --memory, what each operation of a model keeps for its backward, by layer: predicted, and measured in a step.

examples:
  tinygrad-llm explain layernorm
  tinygrad-llm explain attention --json
  tinygrad-llm explain --memory nanogpt-cpu --batch_size 12
"""


@dataclass(frozen=True)
class Explanation:
    """What to show, and how.

    Args:
        memory: a model, by the name of its preset, whose operations' memory to show instead
        batch_size: of the step whose memory is shown
        block_size: its tokens in a row; as many as the model takes, and 1024 at most, unless given
    """

    memory: str | None = None
    batch_size: int = 1
    block_size: int | None = None


def run(argv: list[str]) -> int:
    parser = Parser("explain", DESCRIPTION, Explanation, positional="[OPERATION]")
    parser.add_argument("operation", metavar="OPERATION", nargs="?", help="as in `tinygrad-llm verify`")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    settings = parser.settings(argv)
    name, as_json = settings.pop("operation"), settings.pop("json")
    c = Explanation(**settings)
    if (name is None) == (c.memory is None):
        raise UserError("give an operation, layernorm say, or a model with --memory")
    if c.memory:
        rows = activations.ledger(preset(c.memory), c.batch_size, c.block_size)
        print(json.dumps([row._asdict() for row in rows]) if as_json else activations.table(rows))
        return 0
    page = explain(name)
    if as_json:
        print(json.dumps(page))
    else:
        show(page, Console())
    return 0


def preset(name: str):
    """A model with random weights."""
    if name in PRESETS:
        config = GPTConfig(**PRESETS[name])
        return GPT(replace(config, vocab_size=config.vocab_size or BYTES))
    if name in LLAMA_PRESETS:
        return Llama(LlamaConfig(**LLAMA_PRESETS[name]))
    raise UserError(f"there is no model {name!r}: choose one of {', '.join((*PRESETS, *LLAMA_PRESETS))}")


def explain(name: str) -> dict:
    """All about an operation, as text: what its page, its kernels, its oracle and its tests say themselves.

    Raises UserError for a name that is no operation's.
    """
    known = operations()
    if name not in known:
        close = difflib.get_close_matches(name, known, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise UserError(f"no operation is called {name!r}; {hint}")
    operation = known[name]
    return {
        "operation": name,
        "page": _shown(Path(inspect.getfile(operation.forward))),
        "derivation": operation.__doc__,
        "forward": inspect.getsource(operation.forward),
        "backward": inspect.getsource(operation.backward),
        "kernels": {_shown(path): summary(path) for path in kernel_files(name)},
        "oracle": oracle_of(name),
        "tests": tests_of(name),
        "faults": faults_of(name),
        "work": work_of(name),
    }


def kernel_files(name: str) -> list[Path]:
    """Of every set, whether it can run here or not."""
    folder = Path(kernels.__file__).parent
    return sorted(path for suffix in ("py", "cu") for path in folder.glob(f"*/{name}.{suffix}"))


def summary(path: Path) -> str:
    """The first paragraph of a file's docstring or, of C++, of the comment that it begins with."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        text = "\n".join(line.lstrip("/ ") for line in re.match(r"(//.*\n)*", text)[0].splitlines())
    return " ".join(text.split("\n\n")[0].split())


def oracle_of(name: str) -> dict:
    """PyTorch's side: its source, and on how many cases both are compared. Empty where PyTorch is not installed."""
    try:
        oracle = oracles()[name]
    except UserError:
        return {}
    path = _shown(Path(inspect.getfile(oracle.function)))
    return {"page": path, "source": inspect.getsource(oracle.function), "cases": len(oracle.cases)}


def tests_of(name: str) -> list[str]:
    """The file of tests that all operations go through, and those that name this one."""
    named = re.compile(rf"""\b(ops|F)\.{name}\b|["']{name}["']""")
    everything = ROOT / "tests" / "ops" / "test_operations.py"
    return [_shown(path) for path, text in _test_files().items() if path == everything or named.search(text)]


@functools.cache
def _test_files() -> dict[Path, str]:
    return {path: path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py"))}


def faults_of(name: str) -> dict[str, list[str]]:
    """By kernel set the mistake that tests plant: the text and what replaces it. From tests/ops/faults.py."""
    tables = _faults()
    found = {kernels: list(fault) for (kernels, operation), fault in tables["FAULTS"].items() if operation == name}
    if fault := tables["CUDA_FAULTS"].get(name):
        found["cuda"] = list(fault)
    return found


@functools.cache
def _faults() -> dict[str, dict]:
    file = ROOT / "tests" / "ops" / "faults.py"
    if not file.is_file():  # a wheel brings no tests
        return {"FAULTS": {}, "CUDA_FAULTS": {}}
    statements = ast.parse(file.read_text("utf-8")).body
    return {x.targets[0].id: ast.literal_eval(x.value) for x in statements if isinstance(x, ast.Assign)}


def work_of(name: str) -> str:
    """What it must compute and move, in words, as `roofline` counts it."""
    moved = "what it picks" if name in roofline.PICKING else "each input and the result once"
    flops = roofline.FLOPS.get(name)
    counted = " ".join((flops.__doc__ or "").split()) if flops else ""
    products = f"products: {counted or 'the matrix products of its page'}" if flops else "no matrix products"
    needed = "" if name in roofline.LINEAR else ", and backward the inputs again"
    return f"{products}; it moves {moved}{needed}"


def show(page: dict, console: Console) -> None:
    """The page in the terminal, whose own lines are left as they are."""
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    python = Syntax("", "python", background_color="default")

    def heading(text: str) -> None:
        say(f"\n{text}", style="bold")

    def code(source: str) -> None:
        say(python.highlight(source.rstrip()), end="")

    say(Text.assemble((page["operation"], "bold"), f"  {page['page']}\n"))
    say(page["derivation"])
    heading("forward and backward")
    code(f"{page['forward']}\n\n{page['backward']}")
    heading("kernels")
    if page["kernels"]:
        kernels_table = Table.grid(padding=(0, 2))
        for path, words in page["kernels"].items():
            kernels_table.add_row(path, words)
        console.print(kernels_table, markup=False, highlight=False)
    else:
        say("none: NumPy computes it, on the CPU and, as CuPy, on a GPU")
    if oracle := page["oracle"]:
        heading(f"PyTorch's side, compared on {oracle['cases']} cases: {oracle['page']}")
        code(oracle["source"])
    heading("tests")
    for path in page["tests"]:
        say(path)
    for kernel_set, fault in page["faults"].items():
        say(f"a planted fault, {kernel_set}: {fault[-2]!r} becomes {fault[-1]!r}")
    heading("work")
    say(page["work"])


def _shown(path: Path) -> str:
    """A path in the repository, or where the package is installed."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
