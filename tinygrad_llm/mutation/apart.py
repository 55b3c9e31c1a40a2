"""A check of a mutant in a process of its own: compiled code may crash, or never end, where Python cannot stop it."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

fork = multiprocessing.get_context("fork")


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End the process if this block takes more of the processor's time."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def outcome(check: Callable[[], str], limit: float, reported: Callable[[int], str] = lambda pid: "") -> str:
    """What `check` returns in a process forked from this one, or how that ended, as after so many seconds' work.

    What `reported` says of the process that is over, if it says something, stands for both.
    """
    receiver, sender = fork.Pipe(duplex=False)

    def work():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with limited(limit):
            sender.send(check())

    process = fork.Process(target=work)
    process.start()
    sender.close()
    said = "a crash"
    with contextlib.suppress(EOFError):  # of a process that ends without a word
        said = receiver.recv() if receiver.poll(20 * limit) else "the clock"  # which waits
    process.join(0 if said == "the clock" else limit)
    if process.is_alive():
        process.kill()
        process.join()
        return "the clock"
    if process.exitcode == -signal.SIGVTALRM:
        return "the clock"
    return reported(process.pid) or ("a crash" if process.exitcode else said)
