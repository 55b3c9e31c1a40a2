"""Examples: out of files, split, drawn in batches, and put into arrays by padding or packing.

Shapes: B rows of T tokens. A label stands where the token before it is read: labels[b, t] is what the model is to say
after ids[b, t], or IGNORE where that does not count.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.data.sources import read_file
from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning.objectives import IGNORE

DATASETS = {
    "sms-spam": "sms-spam/SMSSpamCollection",
    "instruction-data": "instruction-data/instruction-data.json",
    "instruction-data-with-preference": "instruction-data-with-preference/instruction-data-with-preference.json",
}
SORTED = 16  # batches' worth of examples that are sorted by length together


class Entry(NamedTuple):
    """What stands at one place of a file: fields by name; `where` says which file and place, for messages."""

    where: str
    fields: dict[str, Any]

    def text(self, name: str, may_be_empty: bool = False) -> str:
        """The text in a field. Raises UserError where it is missing, empty or no text."""
        if name not in self.fields:
            raise UserError(f"{self.where}: there is no field {name!r}, but {', '.join(map(repr, self.fields))}")
        value = self.fields[name]
        if not isinstance(value, str):
            raise UserError(f"{self.where}: {name!r} is {json.dumps(value)[:40]}, which is no text")
        if not (may_be_empty or value.strip()):
            raise UserError(f"{self.where}: {name!r} is empty")
        return value


class Example(NamedTuple):
    """Tokens, and which of them the model is to say: `labels` are the ids themselves, or IGNORE."""

    ids: Sequence[int]
    labels: Sequence[int]


def dataset(source: str | os.PathLike) -> Path:
    """The file that `source` means: a path, or a name in DATASETS, which TINYGRAD_LLM_DATA has. Raises UserError."""
    path = Path(source)
    if os.fspath(source) in DATASETS and not path.is_file():
        folder = os.environ.get("TINYGRAD_LLM_DATA")
        if not folder:
            raise UserError(f"{source} is found in the folder TINYGRAD_LLM_DATA: set that, or give a file")
        path = Path(folder, DATASETS[os.fspath(source)])
    if not path.is_file():
        raise UserError(f"there is no file {path}: give one, or a name: {', '.join(DATASETS)}")
    return path


def read_entries(path: Path, columns: Sequence[str] = ()) -> list[Entry]:
    """The entries of a file: a .json list of objects, .jsonl, .csv with quotes, or for any other name, tabs between
    the fields of a line.

    The first line of the latter two names the columns, unless it has not those that `columns` names, which are then
    all there are. Raises UserError, with the line or the entry, for what is malformed, and for a file without entries.
    """
    text = read_file(path).removeprefix("\ufeff")
    kind = path.suffix.lower()
    if kind == ".json":
        items = _parsed(text, str(path))
        if not isinstance(items, list):
            raise UserError(f"{path} is no list of entries: it begins with {text.strip()[:1]!r}, not '['")
        entries = [Entry(f"{path}, entry {i}", item) for i, item in enumerate(items, 1)]
    elif kind == ".jsonl":
        lines = [(f"{path}, line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        entries = [Entry(where, _parsed(line, where)) for where, line in lines]
    else:
        entries = _table(text, path, columns, kind == ".csv")
    for where, fields in entries:
        if not isinstance(fields, dict):
            raise UserError(f"{where}: it is {json.dumps(fields)[:40]}, and not an object with fields")
    if not entries:
        raise UserError(f"{path} holds no entries")
    return entries


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if ", line " in where else f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where} is no JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply") from error


def _table(text: str, path: Path, columns: Sequence[str], quoted: bool) -> list[Entry]:
    style = {"strict": True} if quoted else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text, newline=""), **style)
    rows = []
    try:
        for fields in reader:
            if fields:
                rows.append((reader.line_num, fields))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error
    names = list(columns)
    if rows and (not columns or set(columns) <= set(rows[0][1])):
        names = rows.pop(0)[1]
    for line, fields in rows:
        if len(fields) != len(names):
            between = "commas" if quoted else "tabs"
            raise UserError(
                f"{path}, line {line}: it has {len(fields)} fields, not the {len(names)} that are expected, "
                f"{', '.join(names)}, with {between} between them"
            )
    return [Entry(f"{path}, line {line}", dict(zip(names, fields, strict=True))) for line, fields in rows]


def split(items: Sequence, train: float, val: float, seed: int) -> dict[str, list]:
    """Shuffled and divided into "train", "val" and "test", the rest. Raises UserError where one gets nothing, but for
    a test set that is to have nothing."""
    order = random.generator(seed).permutation(len(items))
    a = int(train * len(items))
    b = len(items) if train + val == 1 else a + int(val * len(items))
    parts = {"train": order[:a], "val": order[a:b], "test": order[b:]}
    for name, part in parts.items():
        if not len(part) and not (name == "test" and train + val == 1):
            raise UserError(f"{len(items)} examples are too few: none is left for {name}; give more, or other shares")
    return {name: [items[i] for i in part] for name, part in parts.items()}


class Epochs:
    """An endless iterator of batches: what `collate` makes of batch_size examples, the last of an epoch of fewer.

    Each epoch has an order of its own, which depends on nothing but the seed and its number. With `length`, a function
    of an example, examples of like length meet, so that little is padded: shuffled, they are sorted SORTED batches at
    a time, and the batches shuffled again.
    """

    def __init__(
        self,
        examples: Sequence,
        batch_size: int,
        collate: Callable[[list], Any],
        seed: int,
        length: Callable[[Any], int] | None = None,
    ):
        self.examples, self.batch_size, self.collate = examples, batch_size, collate
        self.seed, self.length = seed, length
        self.position = 0
        self._order: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Self:
        return self

    def __next__(self):
        epoch, i = divmod(self.position, len(self))
        if self._order[0] != epoch:
            self._order = epoch, self._batches(epoch)
        self.position += 1
        return self.collate([self.examples[j] for j in self._order[1][i]])

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The indices of each batch."""
        draw, size = random.generator(self.seed, epoch + 1), self.batch_size
        order = draw.permutation(len(self.examples))
        if self.length is None:
            return np.split(order, range(size, len(order), size))
        pools = np.split(order, range(SORTED * size, len(order), SORTED * size))
        order = np.concatenate([sorted(pool, key=lambda i: self.length(self.examples[i])) for pool in pools])
        batches = np.split(order, range(size, len(order), size))
        return [batches[i] for i in draw.permutation(len(batches))]


def pad(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    """The rows as one array (B, T), int64, the shorter ones filled up on the right."""
    array = np.full((len(rows), max(map(len, rows))), value)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array


def collate(examples: Sequence[Example], pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels (B, T) of examples side by side, padded to the longest."""
    return pad([e.ids[:-1] for e in examples], pad_id), pad([e.labels[1:] for e in examples], IGNORE)


def pack(examples: Sequence[Example], length: int, pad_id: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, labels and segments (B, T): several examples in a row of up to `length` tokens, the longest placed first,
    each in the first row that has room for it.

    A segment is the number of its example in the row, which attention is to keep apart from the others; padding is a
    segment of its own.
    """
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        need = len(example.ids) - 1
        if need > length:
            raise UserError(f"an example of {need} tokens does not fit into a row of {length}")
        row = next((i for i, space in enumerate(room) if space >= need), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(example)
        room[row] -= need
    ids = pad([[i for e in row for i in e.ids[:-1]] for row in rows], pad_id)
    labels = pad([[i for e in row for i in e.labels[1:]] for row in rows], IGNORE)
    segments = pad([[n for n, e in enumerate(row) for _ in e.ids[1:]] for row in rows], max(map(len, rows)))
    return ids, labels, segments
