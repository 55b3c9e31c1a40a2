"""The keys and values of past tokens, kept so that a new token meets them without their being computed again.

Shapes: B sequences, H_kv heads of keys and values, D numbers a head, S tokens so far, of which T are new.
"""

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.tensor import Tensor


class KVCache:
    """One layer's keys and values (B, H_kv, capacity, D), in arrays of their final size, on the device of `like`."""

    def __init__(self, batch: int, n_kv_head: int, capacity: int, head_dim: int, dtype=np.float32, like=None):
        self.keys = np.empty((batch, n_kv_head, capacity, head_dim), dtype, like=like)
        self.values = np.empty_like(self.keys)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values (B, H_kv, T, D) of the next T tokens; return those of all so far (B, H_kv, S, D)."""
        start, self.length = self.length, self.length + k.size(-2)
        self.keys[:, :, start : self.length], self.values[:, :, start : self.length] = k.data, v.data
        return Tensor(self.keys[:, :, : self.length]), Tensor(self.values[:, :, : self.length])


class Cache:
    """A model's past tokens: the keys and values of each of its layers.

    Sequences of unequal length are padded on the left: the first `padding[b]` tokens of row b stand for nothing, no
    other token attends to them, and the first real one is at position 0. Raises UserError for padding below 0.
    """

    def __init__(self, layers: list[KVCache], padding=None):
        self.layers = layers
        self.steps = None  # a kernel for decoding with these arrays, or [] where none can: see `nn.decoding`
        self.padding = None if padding is None or not np.any(padding) else np.asarray(padding, int)  # (B,)
        batch = len(layers[0].keys)
        if self.padding is not None and (self.padding.shape != (batch,) or self.padding.min() < 0):
            raise UserError(f"padding must be {batch} numbers from 0 on, one a row, not {padding}")

    @property
    def length(self) -> int:
        """How many tokens are in it, padding included."""
        return self.layers[0].length

    @property
    def capacity(self) -> int:
        """How many tokens there is room for."""
        return self.layers[0].keys.shape[2]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def positions(self, tokens: int) -> np.ndarray:
        """Where the next T tokens stand in their sequences: (T,), or with padding (B, T), the padding itself at 0."""
        positions = np.arange(self.length, self.length + tokens)
        return positions if self.padding is None else np.maximum(positions - self.padding[:, None], 0)

    def mask(self, tokens: int) -> np.ndarray | None:
        """Which keys the next T tokens attend to: booleans (T, S), or with padding (B, 1, T, S).

        None where no mask is needed: one token sees all, and with an empty cache the causal mask says everything.
        """
        if self.padding is None and (tokens == 1 or not self.length):
            return None
        causal = np.tri(tokens, self.length + tokens, self.length, dtype=bool)  # (T, S)
        if self.padding is None:
            return causal
        return causal & (np.arange(causal.shape[1]) >= self.padding[:, None, None, None])
