"""How fast an operation could be: the roofline (Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785).

An operation has products to compute and arrays to move, and takes at least the longer of the two times:

    limit = max(flops / the machine's matrix peak, bytes / its copy bandwidth).

`Work` is what every way to compute the operation has in common, so that the ways can be compared: an array counts once
for going in and once for coming out, wherever it lies and however often it is really read; a view that is returned
moves nothing. Multiplications and additions count in matrix products alone, since all else is bound by what it moves.
What is computed a second time to save memory does not count: it is a choice.

The copy is that of an array in main memory onto itself, read and written: one to another place moves half as much
again, since what it overwrites is fetched first. Arrays of a small model stay in the caches, which are faster, so that
it may reach more than its limit.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from tinygrad_llm import kernels

MOVED = 64 * 2**20  # bytes of the array that is read and written: more than the caches of most processors hold
SIZE = 1024  # rows and columns of the matrices that are multiplied
SECONDS = 0.15  # of each measurement, of which the best counts

# Operations whose gradient does not depend on the values of their floating inputs.
LINEAR = frozenset(
    "add cast concatenate cumsum dropout embedding expand gather getitem masked_fill mean neg permute reshape sub sum "
    "tril triu where".split()
)
PICKING = frozenset({"embedding", "gather", "getitem"})  # read no more than what they return


class Work(NamedTuple):
    """What an operation must compute, multiplications and additions of matrix products, and the bytes it must move."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Machine:
    """What `threads` threads together reach: float32 multiplications and additions a second in a matrix product, and
    bytes a second in a copy, those read and those written."""

    threads: int
    flops: float
    bandwidth: float

    def limit(self, work: Work) -> float:
        """The seconds that this work takes at least."""
        return max(work.flops / self.flops, work.bytes / self.bandwidth)


class WorkCounter:
    """The work of each operation that `watch` shows. A backward's depends on what its forward was given, so the
    forwards must have been shown: the last one of the same name and result's shape is taken to be its own."""

    def __init__(self):
        self.forwards: dict[tuple, list[Work]] = defaultdict(list)

    def __call__(self, phase: str, name: str, inputs: tuple, outputs: tuple) -> Work:
        """The work of one call, from the arguments of a hook (see `tinygrad_llm.autograd.watch`)."""
        if phase == "forward":
            y = outputs[0]
            flops = FLOPS[name](y, *inputs) if name in FLOPS else 0
            needed = [x for x in _arrays(inputs) if name not in LINEAR or x.dtype.kind != "f"]
            self.forwards[name, np.shape(y)].append(Work(flops, sum(x.nbytes for x in needed)))
            return Work(flops, _moved(inputs, (y,), picking=name in PICKING))
        if phase == "backward":
            (dy,) = inputs
            forwards = self.forwards[name, np.shape(dy)]
            flops, needed = forwards.pop() if forwards else Work(0, 0)
            flops = BACK.get(name, _twice)(flops, dy, *outputs)
            moved = _moved(inputs, outputs)
            return Work(flops, moved + needed if moved else 0)
        # An optimizer's pass over flat arrays: all are read, and all but the gradient, alone or the second, written.
        grad = inputs[:2][-1]
        return Work(0, sum(x.nbytes if x is grad else 2 * x.nbytes for x in _arrays(inputs)))


def _moved(read: tuple, written: tuple, picking: bool = False) -> int:
    """The bytes of the arrays read and of those written that are no views of them; 0 if all are views."""
    read, written = _arrays(read), _arrays(written)
    made = [y for y in written if not any(np.may_share_memory(x, y) for x in read)]
    if not made:
        return 0
    size = sum(y.nbytes for y in made)
    return size + sum(min(x.nbytes, size) if picking and x.dtype.kind == "f" else x.nbytes for x in read)


def _arrays(values: tuple) -> list[np.ndarray]:
    """The arrays and NumPy's numbers among the values, each once."""
    return list({id(x): x for x in values if isinstance(x, np.ndarray | np.generic)}.values())


def _product(y, x, *_) -> int:
    """y (..., M) = x (..., K) times a matrix (K, M): a multiplication and an addition for each k of each number."""
    return 2 * y.size * x.shape[-1]


def _linear_cross_entropy(loss, h, weight, *_) -> int:
    return 2 * h.size * len(weight)


def _mlp(y, x, fc_weight, *_) -> int:
    rows, width = x.size // x.shape[-1], len(fc_weight)
    return 2 * rows * width * (x.shape[-1] + y.shape[-1])


def _twice(forward, *_) -> int:
    """What is made of products of two has two backward for each."""
    return 2 * forward


def _once_a_gradient(forward, dy, *gradients) -> int:
    """z = x y has one product forward, and one back for each gradient that is wanted."""
    return forward * sum(gradient is not None for gradient in gradients[:2])


def _lora_linear(y, x, weight, bias, a, b, *_) -> int:
    """x W^T, and the adapter's two products, for so many rows."""
    rows = y.size // len(b)
    return 2 * rows * (x.shape[-1] * len(b) + a.size + b.size)


def _lora_linear_backward(forward, dy, dx, dweight, dbias, da, db) -> int:
    """The adapter's products twice, or without dx only dy B and those of da and db; for dx and dweight, one of W's."""
    rows = dy.size // len(db)
    base = forward - 2 * rows * (da.size + db.size)
    back = 2 * rows * (da.size * (1 + (dx is not None)) + 2 * db.size)
    return back + base * sum(gradient is not None for gradient in (dx, dweight))


def _attention(y, q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, *_) -> int:
    """q k^T and p v, for those pairs of a query and a key alone that a causal mask allows."""
    queries, keys = q.shape[-2], k.shape[-2]
    short = min(queries, keys)
    pairs = short * (short + 1) // 2 + (queries - short) * keys if is_causal else queries * keys
    return 2 * y.size // queries * pairs * (q.shape[-1] + v.shape[-1]) // v.shape[-1]


def _attention_qkvpacked(y, *_) -> int:
    """The same, causal, of heads side by side in y (B, T, C)."""
    return 2 * y.size * (y.shape[-2] + 1)


def _attention_segments(y, q, k, v, bounds, *_) -> int:
    """The same, causal, of the tokens of each text."""
    return 2 * q.shape[1] * q.shape[-1] * sum(n * (n + 1) for n in (bounds[:, 2] - bounds[:, 1]).tolist())


FLOPS: dict[str, Callable[..., int]] = {
    "attention": _attention,
    "attention_qkvpacked": _attention_qkvpacked,
    "attention_segments": _attention_segments,
    "linear": _product,
    "linear_cross_entropy": _linear_cross_entropy,
    "lora_linear": _lora_linear,
    "matmul": _product,
    "mlp": _mlp,
    "quantized_linear": _product,
}
BACK: dict[str, Callable[..., int]] = {
    "linear": _once_a_gradient,
    "linear_cross_entropy": _once_a_gradient,
    "lora_linear": _lora_linear_backward,
    "matmul": _once_a_gradient,
    "quantized_linear": _once_a_gradient,
}


def machine() -> Machine:
    """This machine with the threads in use now, measured at first use in about half a second."""
    if "numba" in kernels.active():
        import numba

        return _measure(numba.get_num_threads())
    return _measure(max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1))


def read_bandwidth(threads: int) -> float:
    """The bytes a second that so many threads together read now, from an array of more than the caches hold."""
    parts = np.array_split(np.ones(4 * MOVED // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        return 4 * MOVED / _fastest(lambda: list(pool.map(np.max, parts)))


@functools.cache
def _measure(threads: int) -> Machine:
    parts = np.array_split(np.ones(MOVED // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        move = _fastest(lambda: list(pool.map(lambda part: np.negative(part, out=part), parts)))
    a, b = np.ones((2, SIZE, SIZE), np.float32)
    with threadpool_limits(threads, "blas"):
        multiply = _fastest(lambda: a @ b)
    if "numba" in kernels.active():
        from tinygrad_llm.kernels.numba.product import product

        multiply = min(multiply, _fastest(lambda: product(a, b)))
    return Machine(threads, 2 * SIZE**3 / multiply, 2 * MOVED / move)


def _fastest(function: Callable[[], object]) -> float:
    """The seconds of the fastest of the calls that fit into SECONDS, after one to warm up."""
    function()
    times, end = [], time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
