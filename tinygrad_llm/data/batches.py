"""Batches: input and target windows over a row of tokens, in an order that the seed fixes; sequences of like length."""

from collections.abc import Iterator, Sequence
from typing import Literal, Self, get_args

import numpy as np

from tinygrad_llm.errors import UserError

Order = Literal["random", "sequential", "shuffled"]
MOST_TOKENS = 4096  # in a batch where nothing is trained, for the memory that it takes


class Batches:
    """An endless iterator of inputs and targets, int64 (batch_size, block_size), the targets one token ahead.

    Windows start at multiples of `stride`. `order` says which come when:
      random      each drawn uniformly, whatever came before (stride 1 unless given: nanoGPT's batches);
      sequential  all in turn, then from the front again (stride block_size unless given: no overlap);
      shuffled    the same windows, each epoch in a new random order.

    An epoch is `len(batches)` batches. Where windows are left over, its last batch is smaller, or left out by
    `drop_last`. Batch `i` depends on nothing but the arguments and `i`, so the position is the whole state.

    Raises UserError for sizes that are not positive and for tokens fewer than block_size + 1.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        block_size: int,
        batch_size: int,
        order: Order = "random",
        stride: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if order not in get_args(Order):
            raise UserError(f"order must be one of {', '.join(get_args(Order))}, not {order!r}")
        stride = (1 if order == "random" else block_size) if stride is None else stride
        for name, size in {"block_size": block_size, "batch_size": batch_size, "stride": stride}.items():
            if size < 1:
                raise UserError(f"{name} must be at least 1, not {size}")
        if seed < 0:
            raise UserError(f"seed must not be negative, as {seed} is")
        if len(tokens) < block_size + 1:
            raise UserError(f"the text has {len(tokens)} tokens, but a block of {block_size} and its last "
                            f"target need {block_size + 1}: give more text or a smaller block_size")
        self.tokens, self.block_size, self.batch_size = np.asarray(tokens), block_size, batch_size
        self.order, self.stride, self.seed = order, stride, seed
        self.n_windows = len(range(0, len(tokens) - block_size, stride))
        self.n_batches = self.n_windows // batch_size if drop_last else -(-self.n_windows // batch_size)
        if order != "random" and not self.n_batches:
            raise UserError(f"{self.n_windows} windows are too few for a whole batch of {batch_size}: "
                            "give more text or a smaller batch_size")
        self.position = 0
        self._shuffled = (-1, np.empty(0, np.int64))  # the epoch, and its order

    def __len__(self) -> int:
        if self.order == "random":
            raise TypeError("random batches have no epochs, and so no length")
        return self.n_batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        self.position += 1
        return self.batch(self.position - 1)

    def batch(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `i`, counted from 0 and on through the epochs; the position stays where it is."""
        if self.order == "random":
            windows = self._generator(i).integers(self.n_windows, size=self.batch_size)
        else:
            epoch, i = divmod(i, self.n_batches)
            windows = np.arange(i * self.batch_size, min((i + 1) * self.batch_size, self.n_windows))
            if self.order == "shuffled":
                windows = self._permutation(epoch)[windows]
        at = windows[:, None] * self.stride + np.arange(self.block_size)  # (B, T)
        return self.tokens[at].astype(np.int64), self.tokens[at + 1].astype(np.int64)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def _generator(self, i: int) -> np.random.Generator:
        # Philox counts up in its lowest word: i goes in the next one, so that no two streams ever meet.
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, i, 0, 0]))

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._shuffled[0] != epoch:
            self._shuffled = epoch, self._generator(epoch).permutation(self.n_windows)
        return self._shuffled[1]


def by_length(lengths: Sequence[int], most_tokens: int = MOST_TOKENS, most: int | None = None) -> Iterator[list[int]]:
    """The indices of sequences of these lengths in batches, the longest first, so that little is padded: up to `most`
    of them, which have `most_tokens` when padded, or one."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, most_tokens // max(1, lengths[order[0]]))
        size = size if most is None else min(size, most)
        yield order[:size]
        order = order[size:]
