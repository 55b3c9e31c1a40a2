"""The bytes that embedding, the losses and the products move by the algorithms of their kernels: see each .cu file.

As `Work`, to be held against that of `tinygrad_llm.roofline`, which is what every algorithm must move at least.
`size` is the bytes of a number.
"""

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
    """With its gradients. Logits go through memory four times, to and from each of three products and the loss."""
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
