"""The random numbers of dropout, initialization and sampling: one counter-based generator, seeded and restorable."""

import numpy as np

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
