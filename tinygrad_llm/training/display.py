"""What a run shows its user: a progress bar with lines above it on a terminal, plain lines anywhere else."""

import contextlib
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinygrad_llm import kernels

COMPILING = "compiling kernels (once; cached for the next run)"


class Display:
    """Shows the progress of a run of `max_iters` steps; a context manager.

    >>> with Display(step, max_iters) as display:
    ...     display.line("a line that stays")
    ...     display.update(step, loss=2.5, val=None, tokens_per_second=1000)
    """

    def __init__(self, step: int, max_iters: int):
        self.console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
        self.live = self.console.is_terminal
        self.told = False
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  val {task.fields[val]}  {task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.live,
            refresh_per_second=4,
            transient=True,
        )
        self.task = self.progress.add_task("training", total=max_iters, completed=step, loss="–", val="–", speed="–")

    def __enter__(self) -> "Display":
        self.exits = contextlib.ExitStack()
        self.exits.enter_context(self.progress)
        self.exits.enter_context(compiling(lambda: self.status(COMPILING)))
        return self

    def __exit__(self, *exception) -> None:
        self.exits.close()

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        self.console.print(text)
        sys.stdout.flush()

    def status(self, text: str) -> None:
        """Say what is being done, in place of "training"; without a terminal, compiling alone is worth a line."""
        if not self.live and text == COMPILING and not self.told:
            self.told = True
            self.line(text)
        self.progress.update(self.task, description=text, refresh=True)

    def update(self, step: int, loss: float, val: float | None, tokens_per_second: float) -> None:
        """Move the bar on."""
        self.progress.update(
            self.task,
            completed=step,
            description="training",
            loss=f"{loss:.4f}",
            val="–" if val is None else f"{val:.4f}",
            speed=f"{tokens_per_second:,.0f}",
        )


@contextlib.contextmanager
def compiling(tell):
    """Call `tell` whenever Numba compiles, rather than loads what it compiled before; if it is in use at all."""
    if "numba" not in kernels.active():
        yield
        return
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event):
            tell()

        def on_end(self, event):
            pass

    with event.install_listener("numba:compile", Listener()):
        yield
