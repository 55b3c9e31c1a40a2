"""Races against PyTorch. A file here with a class `Race` is one, and `tinygrad-llm bench` lists and runs it."""

import ast
import importlib
from pathlib import Path

from tinygrad_llm.errors import UserError


def races() -> dict[str, str]:
    """What there is to race: the first lines of the docstrings by name."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_text("utf-8")
        if "\nclass Race(" in source:
            found[path.stem.replace("_", "-")] = ast.get_docstring(ast.parse(source)).splitlines()[0]
    return found


def find(name: str) -> type:
    """The class `Race` of a race. Raises UserError for a name that is none."""
    if name not in races():
        raise UserError(f"there is no race {name!r}: choose one of {', '.join(races())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").Race
