"""Files that are whole or absent, written under a temporary name and renamed; and what is wrong with one, in a line."""

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from tinygrad_llm.errors import UserError

# What readers raise that believed a file.
WRONG_CONTENT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

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
            with contextlib.suppress(OSError):  # it may never have been made
                temporary.unlink()


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, so that a reader or a kill sees the old file or the new one, whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Whatever goes wrong while a file is read and understood becomes a UserError of one line that names it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not whole: {error}; save or download it again") from error
    except KeyError as error:
        raise UserError(f"{path} is not what it should be: it has no entry {error.args[0]!r}") from error
    except WRONG_CONTENT as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} is not what it should be: {message}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
