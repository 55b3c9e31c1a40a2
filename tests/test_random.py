"""Philox by its published answers, and dropout's mask: the same by every kernel set, and as probable as it says."""

import numpy as np
import pytest

from tinygrad_llm import UserError, kernels, random

# The known answers of Random123 (Salmon et al. 2011) for Philox-4x32-10: counter, key, result.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
SETS = [name for name in kernels.builtin_sets() if kernels.KernelSet(name).takes(np.zeros(1, np.float32))]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, answer):
    assert [int(word) for word in random.philox(counter, key)] == answer
    arrays = random.philox([np.full(3, word, np.uint64) for word in counter], key)
    assert np.array(arrays).tolist() == [[word] * 3 for word in answer]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shape", [(), (1,), (3, 7), (2, 3, 33, 33), (0, 5)])
def test_every_kernel_set_makes_the_same_mask(name, shape):
    mask = random.Mask(0xFEDCBA9876543210, shape, 0.3)
    with kernels.use(name):
        keep = mask.array(np.zeros(1, np.float32))
    words = [random.philox((i, 0, 0, 0), (0x76543210, 0xFEDCBA98)) for i in range(-(-np.prod(shape, dtype=int) // 4))]
    flat = [word / 2**32 >= 0.3 - 2**-25 for four in words for word in four][: np.prod(shape, dtype=int)]
    assert (keep.dtype, keep.shape) == (bool, shape)
    np.testing.assert_array_equal(keep.reshape(-1), np.array(flat, bool))


def test_a_mask_keeps_its_share_and_is_another_each_time():
    random.manual_seed(3)
    masks = np.array([random.mask((100_000,), 0.2).array(np.zeros(1)) for _ in range(3)])
    assert masks.mean(1) == pytest.approx(0.8, abs=0.005)  # four standard deviations
    assert (masks[0] & masks[1]).mean() == pytest.approx(0.64, abs=0.007)
    assert (masks[:, 1:] & masks[:, :-1]).mean() == pytest.approx(0.64, abs=0.005)


def test_the_ends():
    assert random.mask((999,), 0).array(np.zeros(1)).all()
    assert not random.mask((999,), 1).array(np.zeros(1)).any()
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="a dropout probability is from 0 to 1"):
            random.mask((3,), p)


def test_a_state_that_was_kept_gives_the_same_masks_again():
    random.manual_seed(5)
    random.mask((3,), 0.5)
    state = random.get_state()
    seeds = [random.mask((3,), 0.5).seed for _ in range(5)]
    random.manual_seed(6)
    random.set_state(state)
    assert [random.mask((3,), 0.5).seed for _ in range(5)] == seeds
    assert len(set(seeds)) == 5
