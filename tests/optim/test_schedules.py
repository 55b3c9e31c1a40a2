"""Schedules against torch's, against nanoGPT's numbers written out, and at their corners."""

import math

import pytest

from tinygrad_llm import UserError
from tinygrad_llm.optim import learning_rate

NANOGPT = {"schedule": "cosine", "lr": 1e-3, "min_lr": 1e-4, "warmup_iters": 100, "lr_decay_iters": 2000}


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 1e-3 / 101),
        (99, 1e-3 * 100 / 101),
        (100, 1e-3),
        (1050, 5.5e-4),  # half way
        (575, 1e-4 + 0.5 * (1 + math.sqrt(0.5)) * 9e-4),
        (2000, 1e-4),
        (9999, 1e-4),
    ],
)
def test_nanogpts_recipe(step, expected):
    assert learning_rate(step, **NANOGPT) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_torch_decays_alike(schedule):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    if schedule == "cosine":
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.1)
    else:
        reference = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, 20)
    for step in range(21):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(step, schedule, 0.5, 0.1, 0, 20) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        reference.step()


def test_constant_stays_and_warmup_may_be_all_there_is():
    assert [learning_rate(i, "constant", 1.0, 0.5, 3, 10) for i in (0, 2, 3, 10, 99)] == [0.25, 0.75, 1.0, 1.0, 1.0]
    assert [learning_rate(i, "linear", 1.0, 0.5, 3, 3) for i in (2, 3)] == [0.75, 0.5]
    with pytest.raises(UserError, match="schedule must be one of constant, linear, cosine"):
        learning_rate(0, "cosin", 1.0)
