"""Ctrl-C as a request: the step in hand is finished and saved first."""

import signal
import threading


class Interrupt:
    """Inside this context the first Ctrl-C sets `requested` and does nothing else; the second one interrupts."""

    requested = False

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # no other may set a handler
            self.previous = signal.signal(signal.SIGINT, self.request)
        return self

    def __exit__(self, *exception) -> None:
        if hasattr(self, "previous"):
            signal.signal(signal.SIGINT, self.previous)

    def request(self, *_) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self.previous)
