"""Sums down the columns of a matrix from the parts that a kernel's blocks have left: `column_sums.cu` says how."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.launch import NULL, kernel

COLUMNS, GROUPS = 32, 8  # of a block


def part_count(rows: int, least: int = 32) -> int:
    """How many parts to sum so many rows in: of `least` rows each, so that writing and reading a part is little beside
    them, unless that were too few to keep a GPU busy, or more than are of use. It depends on the rows alone, and so do
    the bits of the sums."""
    return min(max(rows // least, 128), 512, rows)


def empty_parts(sums: int, rows: int, width: int, least: int = 32):
    """An array (sums, parts, width) for the parts of `sums` sums over so many rows."""
    return cupy().empty((sums, part_count(rows, least), width), np.float32)


def add_parts(parts, dtype, *wanted: bool) -> list:
    """For each of the sums (sums, parts, width) the array (width,) of this dtype, or None if it is not wanted."""
    cp, (_, count, width) = cupy(), parts.shape
    results = [cp.zeros(width, dtype) if want else None for want in wanted]
    if parts.size and any(wanted):
        given = [NULL if sums is None else sums for sums in (*results, None)[:2]]
        grid = (-(-width // COLUMNS), len(wanted))
        args = (parts, *given, np.int32(count), np.int32(width))
        kernel("column_sums.cu", "add_parts", dtype)(grid, (COLUMNS, GROUPS), args)
    return results
