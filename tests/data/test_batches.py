"""Batches: windows of the text, each order as promised, and a position that is the whole state."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm.data.batches import Batches
from tinygrad_llm.data.sources import read_text
from tinygrad_llm.errors import UserError

ORDERS = ["random", "sequential", "shuffled"]
TOKENS = np.arange(1000, dtype=np.uint16)  # a token is its own position


def starts(batches: Batches, n: int) -> list[int]:
    return [start for inputs, _ in itertools.islice(batches, n) for start in inputs[:, 0].tolist()]


@pytest.mark.parametrize("order", ORDERS)
def test_targets_are_the_inputs_one_token_on(order):
    for inputs, targets in itertools.islice(Batches(TOKENS, 33, 3, order), 20):
        assert inputs.shape == targets.shape and inputs.shape[1] == 33
        assert inputs.dtype == targets.dtype == np.int64
        assert inputs.flags.c_contiguous and targets.flags.c_contiguous
        assert np.array_equal(inputs, inputs[:, :1] + np.arange(33))
        assert np.array_equal(targets, inputs + 1)


@settings(deadline=None, max_examples=150)
@given(
    order=st.sampled_from(["sequential", "shuffled"]),
    n_tokens=st.integers(2, 200),
    block_size=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    stride=st.integers(1, 50),
    drop_last=st.booleans(),
)
def test_an_epoch_has_every_window_once(order, n_tokens, block_size, batch_size, stride, drop_last):
    windows = [i for i in range(0, n_tokens, stride) if i + block_size < n_tokens]
    if not windows or (drop_last and len(windows) < batch_size):
        with pytest.raises(UserError):
            Batches(TOKENS[:n_tokens], block_size, batch_size, order, stride, drop_last=drop_last)
        return
    batches = Batches(TOKENS[:n_tokens], block_size, batch_size, order, stride, drop_last=drop_last)
    for _ in range(3):
        epoch = starts(batches, len(batches))
        assert len(set(epoch)) == len(epoch) and set(epoch) <= set(windows)
        assert len(epoch) == (len(windows) // batch_size * batch_size if drop_last else len(windows))
        assert order == "shuffled" or epoch == windows[: len(epoch)]


def test_shuffled_epochs_differ():
    batches = Batches(TOKENS, 10, 8, "shuffled")
    epochs = [starts(batches, len(batches)) for _ in range(4)]
    assert all(a != b for a, b in itertools.combinations(epochs, 2))


def test_windows_do_not_overlap_unless_the_stride_says_so():
    assert starts(Batches(TOKENS, 250, 1, "sequential"), 3) == [0, 250, 500]
    assert starts(Batches(TOKENS, 250, 1, "sequential", stride=100), 3) == [0, 100, 200]


def test_random_starts_are_uniform_and_reach_both_ends():
    drawn = np.array(starts(Batches(TOKENS[:20], 4, 100), 160))
    counts = np.bincount(drawn, minlength=16)
    assert len(counts) == 16  # starts 0 to 15: the last window's last target is token 19
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared with 15 degrees of freedom: p < 1e-4


@pytest.mark.parametrize("order", ORDERS)
def test_a_restored_position_continues_identically(order):
    batches = Batches(TOKENS, 7, 5, order, seed=3)
    list(itertools.islice(batches, 40))  # into the second epoch
    state = json.loads(json.dumps(batches.state_dict()))
    restored = Batches(TOKENS, 7, 5, order, seed=3)
    restored.load_state_dict(state)
    assert starts(restored, 70) == starts(batches, 70)


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_depends_on_its_position_alone(order):
    batches = Batches(TOKENS, 7, 5, order)
    in_turn = [next(batches)[0] for _ in range(60)]
    for i in (59, 0, 30, 1, 58):
        assert np.array_equal(batches.batch(i)[0], in_turn[i])
    assert batches.state_dict() == {"position": 60}


@pytest.mark.parametrize("order", ["random", "shuffled"])
def test_seeds_differ_and_repeat(order):
    a, b, c = (starts(Batches(TOKENS, 7, 5, order, seed=seed), 10) for seed in (0, 1, 0))
    assert a != b and a == c


def test_random_batches_share_no_stream():
    batches = Batches(np.zeros(2**20, np.uint16), 1, 64)
    drawn = [batches._generator(i).integers(2**63, size=64).tolist() for i in range(100)]
    assert len(set(itertools.chain(*drawn))) == 6400


def test_shakespeares_stream_gives_back_the_text(data_dir):
    text = read_text("shakespeare")
    batches = Batches(np.frombuffer(text.encode(), np.uint8), 64, 12, "sequential")
    epoch = [batches.batch(i) for i in range(len(batches))]
    inputs, targets = (np.concatenate(parts).ravel().astype(np.uint8) for parts in zip(*epoch, strict=True))
    assert len(text) - len(inputs) <= 64
    assert inputs.tobytes().decode() == text[: len(inputs)]
    assert targets.tobytes().decode() == text[1 : len(inputs) + 1]


def test_random_batches_have_no_length():
    with pytest.raises(TypeError, match="no epochs"):
        len(Batches(TOKENS, 7, 5))


def test_the_shortest_text_that_will_do():
    inputs, targets = Batches(TOKENS[:9], 8, 2).batch(0)
    assert (inputs == np.arange(8)).all() and (targets == np.arange(1, 9)).all()
    with pytest.raises(UserError, match=r"8 tokens, but a block of 8 and its last target need 9"):
        Batches(TOKENS[:8], 8, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 0}, "block_size must be at least 1, not 0"),
        ({"batch_size": -3}, "batch_size must be at least 1, not -3"),
        ({"stride": 0}, "stride must be at least 1, not 0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"order": "sorted"}, "order must be one of random, sequential, shuffled, not 'sorted'"),
        ({"order": "shuffled", "batch_size": 200, "drop_last": True}, "142 windows are too few"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        Batches(**{"tokens": TOKENS, "block_size": 7, "batch_size": 5} | arguments)
