"""TensorBoard's event files, by tensorboardX's writer.

Its usual SummaryWriter writes from a thread of its own, which a full disk would end unheard; this writes at once.
"""

import sys
import time
from pathlib import Path


class Events:
    """Appends scalars to an event file in `folder`; TensorBoard hides those of earlier files from `purge_step` on."""

    def __init__(self, folder: Path, purge_step: int | None = None):
        self.library = _tensorboardx()
        self.writer = self.library.EventsWriter(str(folder / "events"))
        if purge_step is not None:
            event = self.library.event_pb2.Event
            start = self.library.event_pb2.SessionLog(status="START")
            self.writer.write_event(event(wall_time=time.time(), step=purge_step, session_log=start))

    def add(self, step: int, scalars: dict[str, float]) -> None:
        event = self.library.event_pb2.Event(wall_time=time.time(), step=step)
        for tag, number in scalars.items():
            event.summary.value.add(tag=tag, simple_value=number)
        self.writer.write_event(event)

    def close(self) -> None:
        self.writer.close()


def _tensorboardx():
    """tensorboardX's writer. On its way it imports torch where that is installed: two seconds for nothing used here."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX import event_file_writer
    finally:
        if hidden:
            del sys.modules["torch"]
    return event_file_writer
