"""What every language model has: a stack of layers between an embedding and a head, a loss, and a cache."""

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm import random
from tinygrad_llm.devices import asarray, on_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.nn import Cache, Embedding, KVCache, Linear, Module, Parameter, initial
from tinygrad_llm.quantization import Quantized
from tinygrad_llm.recording import decided
from tinygrad_llm.tensor import Tensor


class LanguageModel(Module):
    """Gives each token's successor a distribution. B sequences of T tokens of C numbers, a vocabulary of V.

    A model has a `config` (with vocab_size, block_size, n_layer, n_head, n_kv_head and head_dim), an `embedding`,
    `blocks` and the `final_norm`, its own head `lm_head` or None where the embedding is the head too, and `hidden`.
    """

    embedding: Embedding
    blocks: list[Module]
    final_norm: Module
    lm_head: Linear | None

    def initialize(self, residual: tuple[str, ...]) -> None:
        """GPT-2's first numbers: matrices normal with standard deviation 0.02, but those whose names end as `residual`
        says, whose products are added to the shortcut, 0.02 / sqrt(2 n_layer), since there are 2 n_layer of them;
        biases zero."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if name.endswith(residual) else 0.02
                parameter.data = initial(parameter.shape, partial(random.default.normal, 0, std))
            elif name.endswith("bias"):
                parameter.data = initial(parameter.shape, np.zeros)

    def hidden(self, ids, cache: Cache | None = None, segments=None) -> Tensor:
        """The last layer's normed output (B, T, C) for token ids (B, T); with a cache, for those that follow the
        tokens in it, which they are added to. Raises UserError beyond the block or the cache.

        `segments` (B, T), whole numbers, say that several texts share a row: a run of one number is a text, which
        attends to itself alone, from position 0 on.
        """
        raise NotImplementedError(f"{type(self).__name__} needs hidden")

    def head(self, h: Tensor) -> Tensor:
        """Logits (..., V) for what `hidden` gives (..., C)."""
        return F.linear(h, self.head_weight)

    def forward(self, ids, cache: Cache | None = None, segments=None) -> Tensor:
        """Logits (B, T, V) for token ids (B, T), as `hidden`."""
        return self.head(self.hidden(ids, cache, segments))

    def loss(self, ids, targets, reduction: str = "mean", ignore_index: int = -100, segments=None) -> Tensor:
        """Cross-entropy of the next token: ids, targets and segments (B, T). Never holds all the logits, unless the
        head is quantized, and makes none where the target is ignored, unless each loss is asked for, or the targets are
        on a device, where to count them would be to wait."""
        return self.head_loss(self.hidden(ids, segments=segments), targets, reduction, ignore_index)

    def head_loss(self, h: Tensor, targets, reduction: str = "mean", ignore_index: int = -100) -> Tensor:
        """`loss`, for what `hidden` has given (B, T, C)."""
        h, targets = h.reshape(-1, h.size(-1)), asarray(targets).reshape(-1)
        if reduction != "none" and not on_device(targets) and decided(some_count, targets, ignore_index):
            counting = np.flatnonzero(targets != ignore_index)
            h, targets = F.embedding(counting, h), targets[counting]  # these rows of h
        options = {"reduction": reduction, "ignore_index": ignore_index}
        if isinstance(self.head_weight, Tensor):
            return F.linear_cross_entropy(h, self.head_weight, targets, **options)
        return F.cross_entropy(self.head(h), targets, **options)

    @property
    def head_weight(self) -> Parameter | Quantized:
        """(V, C), a Parameter or Quantized: the token embedding, unless the head has its own."""
        return (self.lm_head or self.embedding).weight

    def new_cache(self, batch: int, length: int | None = None, padding=None) -> Cache:
        """An empty cache for `batch` sequences of up to `length` tokens, a whole block unless given.

        `padding` (B,) says how many of each sequence's first tokens only fill it up on the left.
        """
        c = self.config
        like = next(parameter for _, parameter in self.named_parameters()).data
        capacity = c.block_size if length is None else min(length, c.block_size)
        try:
            layers = [KVCache(batch, c.n_kv_head, capacity, c.head_dim, like.dtype, like) for _ in range(c.n_layer)]
        except (MemoryError, ValueError) as error:
            raise UserError(f"there is no memory for a cache of {batch} × {capacity} tokens: give a length") from error
        return Cache(layers, padding)

    def generate(self, ids: Sequence[int], max_new_tokens: int, **settings) -> list[int]:
        """The tokens that continue `ids`; `tinygrad_llm.generation.generate` has the settings, and yields them as they
        come."""
        from tinygrad_llm.generation import generate  # which is above the models

        return list(generate(self, ids, max_new_tokens, **settings))

    def place(self, ids, cache: Cache | None, segments=None) -> tuple:
        """The positions of token ids (B, T); their attention mask, None where the causal one does; and the bounds of
        the texts in them (see `attend`), None without segments.

        Raises UserError for more tokens than the block or the cache has room for, and for segments that do not fit.
        """
        tokens = np.shape(ids)[-1]
        end = tokens + (cache.length if cache else 0)
        if end > self.config.block_size:
            raise UserError(f"{end} tokens are more than the block size of {self.config.block_size}")
        if segments is not None:
            if np.shape(segments) != np.shape(ids) or cache is not None:
                raise UserError(f"segments {np.shape(segments)} must be as ids {np.shape(ids)}, and without a cache")
            bounds = texts(np.asarray(segments))
            positions = np.concatenate([np.arange(end - start) for _, start, end in bounds])
            return positions.reshape(np.shape(ids)), None, bounds
        if cache is None:
            return first_positions(tokens), None, None
        if end > cache.capacity:
            raise UserError(f"{end} tokens are more than the cache has room for: {cache.capacity}")
        return cache.positions(tokens), cache.mask(tokens), None


def some_count(targets: np.ndarray, ignore_index: int) -> bool:
    """Whether some targets count and some do not."""
    return 0 < np.count_nonzero(targets == ignore_index) < len(targets)


@lru_cache(maxsize=64)
def first_positions(tokens: int) -> np.ndarray:
    """Those from 0 on, always in the same array, which nobody writes to."""
    return np.arange(tokens)


def texts(segments: np.ndarray) -> np.ndarray:
    """The row, the start and the end of each run of one number in segments (B, T), in order: (N, 3)."""
    begins = np.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
    rows, starts = np.nonzero(begins)
    ends = np.append(starts[1:], 0)
    ends[ends == 0] = segments.shape[1]  # the next text begins a row
    return np.stack([rows, starts, ends], axis=1)
