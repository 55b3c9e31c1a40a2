"""Files that are whole or absent: written under a temporary name, flushed to disk, then renamed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tinygrad_llm.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` for a file or a folder; on success it takes the name `path`.

    A folder must not exist yet under its final name (a rename cannot replace a folder that holds files).
    Raises UserError where the disk is full or the place cannot be written; what was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for item in [*temporary.rglob("*"), temporary] if temporary.is_dir() else [temporary]:
            _flush(item)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; nothing that was there has changed") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, so that a reader or a kill sees the old file or the new one, whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
