"""Bytes that the kernels of rows and elements move, by their algorithms, beside the least that any could: every array
read or written once. What a kernel reads again it should find in the cache, but here it counts.
"""

from typing import NamedTuple

from tinygrad_llm.kernels.cuda.column_sums import part_count
from tinygrad_llm.kernels.cuda.elements import TILE_ROWS


class Traffic(NamedTuple):
    """Arrays (rows, width) that a kernel reads or writes, as often as it does; how many there are; float32 numbers a
    row, its statistics; and sums down the columns, whose parts are written and read in float32."""

    moved: int
    least: int
    statistics: int = 0
    sums: int = 0
    rows_of_part: int = 1

    def bytes(self, rows: int, width: int, itemsize: int) -> tuple[int, int]:
        """Those moved and the least, for arrays of so many rows and columns."""
        array, vectors = rows * width * itemsize, 4 * self.statistics * rows + self.sums * width * itemsize
        parts = 2 * 4 * self.sums * width * part_count(-(-rows // self.rows_of_part), 32 // self.rows_of_part)
        return self.moved * array + vectors + parts, self.least * array + vectors


TRAFFIC = {
    "add_forward": Traffic(3, 3),
    "gelu_forward": Traffic(2, 2),
    "gelu_backward": Traffic(3, 3),
    "bias_gelu_forward": Traffic(2, 2),
    "bias_gelu_backward": Traffic(4, 4, sums=1, rows_of_part=TILE_ROWS),
    "swiglu_forward": Traffic(3, 3),
    "swiglu_backward": Traffic(5, 5),
    "bias_swiglu_forward": Traffic(3, 3),
    "bias_swiglu_backward": Traffic(5, 5, sums=2, rows_of_part=TILE_ROWS),
    "rotary_turn": Traffic(2, 2),
    "rmsnorm_forward": Traffic(2, 2, statistics=1),
    "add_rmsnorm_forward": Traffic(4, 4, statistics=1),
    "rmsnorm_backward": Traffic(3, 3, statistics=1, sums=1),
    "layernorm_forward": Traffic(2, 2, statistics=2),
    "add_layernorm_forward": Traffic(4, 4, statistics=2),
    "layernorm_backward": Traffic(3, 3, statistics=2, sums=2),
    # The ladder: a row is read again for each pass, and all of them for the sums down the columns, until version 4
    # keeps the row in registers, and version 5, of rows of up to 512 columns, the sums too.
    **{f"versions/layernorm_{i}.cu forward": Traffic(moved, 2, 2) for i, moved in enumerate((4, 4, 4, 2, 2), 1)},
    **{f"versions/layernorm_{i}.cu backward": Traffic(moved, 3, 2, 2) for i, moved in enumerate((7, 7, 7, 5, 3), 1)},
}
