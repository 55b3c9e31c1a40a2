"""Steps that are run from a record: the bits of those that the operations do, and no record where there is none."""

import numpy as np
import pytest

from tinygrad_llm import UserError, autograd, capture, kernels, manual_seed, recording
from tinygrad_llm.capture import ATTEMPTS, Captured
from tinygrad_llm.memory import empty
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.optim import AdamW, decay_groups, flat
from tinygrad_llm.recording import Arena, Changed, Recording, decided, repeated, unrecorded

pytest.importorskip("numba", reason="only Numba's kernels have programs")
from tinygrad_llm.kernels.numba.program import Program

SHAPE = (3, 8)
SMALL = {"vocab_size": 17, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 32}
NANOGPT = {"bias": False, "activation": "gelu", "tie_weights": False}


def batches(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (count, 2, *SHAPE))


def train(
    steps, micro_batches: int = 1, capture: bool = True, dtype: str = "float32", make=GPT, config=None, **options
):
    """(the losses, the parameters after the last step, the Captured) of a few steps."""
    manual_seed(0)
    model = make(config or GPTConfig(**SMALL | options)).to(dtype)
    optimizer = AdamW(decay_groups(model.parameters(), 0.1))
    captured, losses = Captured(model.loss, model.parameters()), []
    for ids, targets in steps:
        optimizer.zero_grad()
        for _ in range(micro_batches):
            losses.append(captured(ids, targets, weight=0.5) if capture else captured.run((ids, targets), 0.5).item())
        optimizer.lr = 1e-2
        optimizer.step(optimizer.clip_grad_norm(1.0)[1])
    return losses, optimizer.data, captured


def same_bits(steps, **options) -> Captured:
    """Assert that steps have the same bits with and without a record."""
    (losses, data, captured), (expected, expected_data, _) = (train(steps, capture=x, **options) for x in (True, False))
    assert losses == expected
    np.testing.assert_array_equal(data, expected_data)
    return captured


def ready(captured: Captured) -> list[bool]:
    return [record.ready for record in captured.records.values()]


@pytest.mark.parametrize("options", [{}, NANOGPT, {"dtype": "float64"}], ids=["gpt2", "nanogpt", "float64"])
def test_a_record_gives_the_bits_of_the_operations(options):
    assert ready(same_bits(batches(), **options)) == [True]


def test_gradients_of_several_micro_batches_are_added_up():
    assert ready(same_bits(batches(), micro_batches=2)) == [True, True]  # the first writes, the second adds


def test_large_gradients_have_memory_of_their_own(monkeypatch):
    monkeypatch.setattr(flat, "LARGE", 500)
    assert ready(same_bits(batches())) == [True]


def test_a_record_is_of_arrays_of_one_shape():
    short = [(ids[:2], targets[:2]) for ids, targets in batches()]
    assert ready(same_bits([*batches(), *short])) == [True, True]


def test_a_record_does_no_work_in_python(monkeypatch):
    captured = train(batches())[2]
    for parameter in captured.parameters:
        parameter.grad = None
    calls = []
    monkeypatch.setattr(captured, "loss", lambda *batch: calls.append(batch))
    loss = captured(*batches()[0], weight=0.5)
    assert not calls and loss > 0


def test_masks_of_dropout_are_drawn_anew():
    captured = same_bits(batches(), dropout=0.5)
    assert ready(captured) == [False]
    assert [(record.attempts, record.arena) for record in captured.records.values()] == [(ATTEMPTS, None)]


def test_what_has_no_record_goes_on_without():
    config = LlamaConfig(vocab_size=17, block_size=8, n_layer=1, n_head=2, n_kv_head=1, n_embd=32)
    same_bits(batches(), make=Llama, config=config)


def test_a_batch_with_ignored_targets_takes_another_way():
    steps = batches()
    steps[4, 1, 0, :5] = -100
    assert ready(same_bits(steps)) == [True]


def test_a_token_outside_the_vocabulary_is_refused_and_harms_nothing():
    model = GPT(GPTConfig(**SMALL))
    optimizer, captured = AdamW(model.parameters()), Captured(model.loss, model.parameters())
    for ids, targets in batches(3):
        optimizer.zero_grad()
        loss, gradient = captured(ids, targets), optimizer.grad
    for wrong in [(ids + 17, targets), (ids, targets - 17)]:
        optimizer.zero_grad()
        with pytest.raises(UserError, match="outside the"):
            captured(*wrong)
    assert captured(ids, targets) == loss and ready(captured) == [True]
    np.testing.assert_array_equal(optimizer.grad, gradient)


def test_other_arrays_for_the_parameters_are_noticed():
    model = GPT(GPTConfig(**SMALL))
    captured = Captured(model.loss, model.parameters())
    for _ in range(2):
        AdamW(model.parameters())  # moves them
        for ids, targets in batches(3):
            for parameter in model.parameters():
                parameter.grad = None
            captured(ids, targets)
    assert ready(captured) == [True, True]
    parameter = model.h[0].mlp.c_fc.weight
    parameter.data = np.zeros_like(parameter.data)
    assert captured(ids, targets) == model.loss(ids, targets).item()


def test_what_python_computes_in_between_is_found_out():
    model = GPT(GPTConfig(**SMALL))
    optimizer = AdamW(model.parameters())

    def loss(ids, targets):
        return model.loss(ids, targets) * float(ids.sum())  # Python's, which no record has

    captured = Captured(loss, model.parameters())
    for ids, targets in batches():
        optimizer.zero_grad()
        assert captured(ids, targets) == pytest.approx(model.loss(ids, targets).item() * ids.sum(), rel=1e-6)
    assert ready(captured) == [False]


def test_watchers_see_the_operations():
    captured, seen = train(batches())[2], []
    with autograd.watch(lambda phase, name, *_: seen.append((phase, name))):
        captured(*batches()[0], weight=0.5)
    assert ("forward", "mlp") in seen and ("backward", "mlp") in seen


def test_without_numba_there_is_no_record():
    with kernels.use("numpy"):
        assert ready(same_bits(batches(3))) == []


def test_a_large_step_is_not_recorded(monkeypatch):
    monkeypatch.setattr(capture, "LARGE", 10_000)
    assert ready(same_bits(batches())) == []


# what records are made of


def test_an_arena_gives_what_is_given_up_to_the_next_of_its_size():
    arena = Arena()
    x, y = (arena.empty((100,), np.dtype("float32")) for _ in range(2))
    first, view = recording.address(x), x[10:]
    del x
    assert recording.address(arena.empty((90,), np.dtype("float32"))) not in (first, recording.address(y))  # in use
    kept = arena.lasting(view)
    np.testing.assert_array_equal(kept, view)
    del view
    z = arena.empty((100,), np.dtype("float32"))
    z[:] = 7
    assert recording.address(z) == first and (kept == 7).all()


def test_what_is_repeated_is_repeated_and_what_is_decided_is_decided_again():
    x, y, made = np.arange(3), np.zeros(3), Recording(Program(), Arena())
    with made:
        repeated(np.multiply, x, 2, y)
        assert decided(np.max, x) == 2
        with unrecorded():
            repeated(np.add, y, 1, y)
    x[1] = 2
    made.program.run()
    np.testing.assert_array_equal(y, [0, 4, 4])
    x[2] = 9
    with pytest.raises(Changed):
        made.program.run()


def test_memory_of_a_recording_is_in_its_arena():
    with Recording(Program(), Arena()) as made:
        x = empty((4, 5), "float64")
    assert [block.size for block in made.arena.blocks] == [192]
    assert recording.address(x) == recording.address(made.arena.blocks[0])
    assert recording.recording() is None
