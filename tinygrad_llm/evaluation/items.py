"""Reading a task's items: files of one JSON object a line."""

import json
import os
import zipfile
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading

KINDS = {str: "a text that is not empty", list: "a list of texts that are not empty"}


def read_items(path: Path | zipfile.Path, limit: int | None = None, **fields: type) -> list[tuple[str, dict]]:
    """The first `limit` objects in a JSONL file, all unless given, each after the place where it stands.

    Each has `fields`, of type str or list (of str). Raises UserError that names the place for what is no JSON, misses
    a field or has it of another type.
    """
    with reading(path):
        lines = path.read_text("utf-8").split("\n")
    places = [(f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    if not places:
        raise UserError(f"{path} has no items: give a file of one JSON object a line")
    return [(place, _item(line, place, fields)) for place, line in places[:limit]]


def _item(line: str, place: str, fields: dict[str, type]) -> dict:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: no JSON: {error}") from error
    if not isinstance(item, dict):
        raise UserError(f"{place}: give a JSON object, not {line:.60}")
    for name, kind in fields.items():
        if name not in item:
            raise UserError(f"{place}: there is no field {name!r}")
        value = item[name]
        texts = value if isinstance(value, list) else [value]
        if type(value) is not kind or not texts or not all(isinstance(text, str) and text for text in texts):
            raise UserError(f"{place}: {name!r} must be {KINDS[kind]}, not {value!r:.60}")
    return item


def jsonl_files(path: str | os.PathLike) -> list[Path | zipfile.Path]:
    """The JSONL file that `path` is, or those in it if it is a folder or a zip archive.

    Raises UserError where there are none.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.jsonl"))
    elif path.suffix == ".zip":
        with reading(path):
            try:
                names = sorted(zipfile.ZipFile(path).namelist())
            except zipfile.BadZipFile as error:
                raise UserError(f"{path} is damaged or no zip archive: {error}") from error
        files = [zipfile.Path(path, name) for name in names if name.endswith(".jsonl")]
    else:
        return [path]
    files = [file for file in files if not file.name.startswith("._")]  # what macOS adds to archives
    if not files:
        raise UserError(f"{path} has no .jsonl files in it")
    return files
