"""The bytes that kernels move by their algorithms: see each .cu file. What a kernel reads again it should find in the
cache, but here it counts.

They are held against the least, every array read or written once. `Traffic`, of rows and elements, tells both; the
others are `Work`, as that of `tinygrad_llm.roofline` is. `size` is the bytes of a number.
"""

from typing import NamedTuple

from tinygrad_llm.kernels.cuda.column_sums import part_count
from tinygrad_llm.kernels.cuda.elements import TILE_ROWS
from tinygrad_llm.roofline import Work


def embedding_forward(tokens: int, width: int, size: int) -> Work:
    return Work(0, tokens * (8 + 2 * width * size))


def embedding_backward(tokens: int, rows: int, width: int, size: int) -> Work:
    lists = 60 * tokens + 20 * rows
    return Work(0, lists + (tokens + rows) * width * size)


def cross_entropy_forward(rows: int, classes: int, size: int) -> Work:
    return Work(0, rows * (classes * size + 8 + 12))


def cross_entropy_backward(rows: int, classes: int, size: int) -> Work:
    return Work(0, rows * (2 * classes * size + 8 + 8))


def linear_cross_entropy_forward(rows: int, classes: int, width: int, size: int, chunks: int = 1) -> Work:
    """With its gradients. Logits move five times: from a product, to and from the loss, to two products."""
    logits = rows * classes * size * (1 + 2 + 2)  # written; read and written in place; read by two products
    weights = classes * width * (2 * size * chunks + 4 * (2 * chunks - 1))  # read twice a chunk, dW added to
    return Work(6 * rows * classes * width, logits + weights + rows * width * (2 * size + 4))


def linear_forward(rows: int, columns: int, width: int, size: int, bias: bool = True) -> Work:
    """With a bias, y is written, read and written again: what cuBLAS adds to must be there first."""
    y = rows * columns * (3 if bias else 1)
    return Work(2 * rows * columns * width, size * (rows * width + columns * width + y))


def linear_backward(rows: int, columns: int, width: int, size: int, bias: bool = True) -> Work:
    """dy is read by two products and, for the bias, by the sums of its columns."""
    dy = rows * columns * (3 if bias else 2)
    return Work(4 * rows * columns * width, size * (dy + 2 * (rows + columns) * width))


def mlp_forward(rows: int, width: int, hidden: int, size: int) -> Work:
    """Between its products h is written and read, and a too."""
    fc, proj = linear_forward(rows, hidden, width, size, bias=False), linear_forward(rows, width, hidden, size)
    return Work(fc.flops + proj.flops, fc.bytes + 2 * rows * hidden * size + proj.bytes)


def matvec(rows: int, columns: int, width: int, size: int) -> Work:
    return Work(2 * rows * columns * width, size * (columns * width + rows * (columns + width)))


def attention(q, k, is_causal: bool, rows: int = 64, back_rows: int = 64) -> tuple[Work, Work]:
    """Forward and backward, for arrays like q (B, H, T, D) and k (B, H_kv, S, D): the products, with the scores that
    the backward makes again, twice, and the bytes that blocks of so many rows ask for.

    It is more than the least, which has each array once: every block reads the rows of the others again, as far as a
    causal mask lets it see them, mostly from the L2 cache. attention.cu has blocks of 32 rows (backward 16 if D > 64),
    and its backward reads q once more for each block of keys, which is not counted.
    """
    (batch, heads, queries, size), keys = q.shape, k.shape[2]
    row, statistic = size * q.itemsize, 4 * batch * heads * queries

    def seen(rows: int) -> int:
        """Rows of k that blocks of so many queries read."""
        ends = range(rows, queries + rows, rows)
        return batch * heads * sum(min(keys, end) if is_causal else keys for end in ends)

    def seeing(rows: int) -> int:
        """Rows of q that blocks of so many keys read."""
        return batch * heads * sum(max(0, queries - start) if is_causal else queries for start in range(0, keys, rows))

    pairs = seen(1)
    forward = Work(4 * pairs * size, 2 * q.nbytes + 2 * row * seen(rows) + statistic)
    backward_q = 4 * q.nbytes + 2 * row * seen(back_rows) + 2 * statistic
    backward_kv = 4 * k.nbytes + (2 * row + 8) * seeing(back_rows)
    return forward, Work(14 * pairs * size, backward_q + backward_kv)


class Traffic(NamedTuple):
    """Of a kernel of rows or elements: arrays (rows, width) that it reads or writes, as often as it does; how many
    there are; float32 numbers a row, its statistics; and sums down the columns, whose parts are written and read in
    float32.
    """

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
