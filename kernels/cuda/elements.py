"""How kernels take their arrays, and launches of those that compute element by element, a pack of 16 bytes a thread."""

import numpy as np

from tinygrad_llm.devices import cupy
from tinygrad_llm.kernels.cuda.column_sums import empty_parts
from tinygrad_llm.kernels.cuda.launch import NULL, kernel

THREADS = 256
LANES, TILE_ROWS = 32, 8  # of a block with a tile of columns (see columns.cuh)


def alike(x, *others) -> list:
    """x and the others without gaps in memory and of x's dtype; None stays."""
    cp = cupy()
    arrays = (a if a is None else a.astype(x.dtype, copy=False) for a in (x, *others))
    return [a if a is None else cp.ascontiguousarray(a).reshape(a.shape) for a in arrays]  # of 0 axes it makes 1


def launch_elements(source: str, name: str, *arrays, scalars: tuple = ()) -> None:
    """Launch a kernel over arrays alike, without gaps: their addresses, how many elements they have, the scalars."""
    first = arrays[0]
    if first.size:
        blocks = -(-first.nbytes // (16 * THREADS))
        kernel(source, name, first.dtype)((blocks,), (THREADS,), (*arrays, np.int64(first.size), *scalars))


def launch_tiles(source: str, name: str, x, arrays: tuple, *scalars, sums: int = 0):
    """Launch a kernel over tiles of the rows of x, and return the parts of the `sums` sums down its columns, which
    `add_parts` adds up; None in `arrays` is absent."""
    width = x.shape[-1]
    rows = x.size // max(width, 1)
    parts = empty_parts(sums, -(-rows // TILE_ROWS), width, least=32 // TILE_ROWS)
    if x.size:
        given = (NULL if array is None else array for array in (*arrays, *([parts] if sums else [])))
        grid = (-(-width * x.itemsize // (16 * LANES)), parts.shape[1])
        args = (*given, np.int32(rows), np.int32(width), *scalars)
        kernel(source, name, x.dtype)(grid, (LANES, TILE_ROWS), args)
    return parts
