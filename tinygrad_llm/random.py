"""The random numbers of dropout, initialization and sampling: counter-based generators, seeded and restorable.

What is drawn in turn, such as first weights and tokens, comes from NumPy's Philox generator. Dropout's mask is no
sequence but a function, so that every processor makes any part of it by itself: see `Mask`.
"""

import math
from typing import NamedTuple

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.errors import UserError


def generator(seed: int, stream: int = 0) -> np.random.Generator:
    """A Philox generator (Salmon et al. 2011): its state is a key and a counter, the same on every machine.

    The streams of a seed are independent of each other and of every other seed's.
    """
    if seed < 0:
        raise UserError(f"seed must be a whole number from 0 on, not {seed}")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(stream,) if stream else ())))


def manual_seed(seed: int) -> None:
    """Start the default generator afresh, as torch.manual_seed does."""
    default.bit_generator.state = generator(seed).bit_generator.state


def get_state() -> dict:
    """The default generator's state, in numbers and lists that JSON can hold."""
    return _plain(default.bit_generator.state)


def set_state(state: dict) -> None:
    """Put the default generator back to where `get_state` found it."""
    arrays = {key: np.array(value, np.uint64) for key, value in state["state"].items()}
    buffer = np.array(state["buffer"], np.uint64)
    default.bit_generator.state = {**state, "state": arrays, "buffer": buffer}


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


default = generator(0)


class Mask(NamedTuple):
    """Booleans of `shape`, each true with probability 1 - p: what dropout keeps, as 64 random bits say, its seed.

    Element i, in C order, is word i % 4 of `philox` of the counter i // 4, and true where the first 24 bits of that
    word are at least `threshold`. So it is the same on every device, and a kernel may make it in registers each time.
    """

    seed: int
    shape: tuple[int, ...]
    p: float

    @property
    def threshold(self) -> int:
        """p in units of 2^-24."""
        return math.ceil(self.p * 2**24)

    def array(self, like):
        """The booleans, on the device of the array `like`."""
        return kernels.select("philox_keep", philox_keep, like)(like, self.seed, self.shape, self.threshold)


def mask(shape: tuple[int, ...], p: float) -> Mask:
    """The next mask: its seed is drawn from the default generator. Raises UserError for no probability."""
    if not 0 <= p <= 1:
        raise UserError(f"a dropout probability is from 0 to 1, not {p}")
    return Mask(default.bit_generator.random_raw(), shape, p)


def booleans(keep, like):
    """A mask as an array on the device of `like`: what is one already, and None, as it is."""
    return keep.array(like) if isinstance(keep, Mask) else keep


MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what the key grows by: the golden ratio, and sqrt(3) - 1
LOW = 0xFFFFFFFF


def philox(counter, key) -> list:
    """Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): four random words of 32 bits.

    `counter` has four words and `key` two, as whole numbers or arrays of uint64 that hold 32 bits each. A round
    multiplies two words into 64 bits and mixes the halves: a permutation of the counters, which ten rounds make look
    random.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & LOW, (a >> 32) ^ c3 ^ k1, a & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return [c0, c1, c2, c3]


def philox_keep(like, seed: int, shape: tuple[int, ...], threshold: int):
    """`Mask.array`."""
    size = math.prod(shape)
    i = np.arange(-(-size // 4), dtype=np.uint64, like=like)
    words = philox((i & LOW, i >> 32, 0, 0), (seed & LOW, seed >> 32))
    return (np.stack(words, -1).reshape(-1)[:size] >> 8 >= threshold).reshape(shape)
