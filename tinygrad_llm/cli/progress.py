"""A progress bar on a terminal, and elsewhere none."""

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a bar on stderr while they last. Lines printed meanwhile go above it, or to stdout's file."""
    console = Console(stderr=True)
    quiet, to_terminal = not console.is_terminal, sys.stdout.isatty()
    with Progress(console=console, transient=True, disable=quiet, redirect_stdout=to_terminal) as bar:
        yield from bar.track(items, description=what)
