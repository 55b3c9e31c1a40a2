"""Module: the tree of parameters, states in and out, modes."""

import numpy as np
import pytest

from tinygrad_llm import UserError
from tinygrad_llm.nn import Dropout, Linear, Module, Sequential, meta


class Twice(Module):
    """Two layers that share a weight, one of them in a list."""

    def __init__(self):
        self.first = Linear(3, 3)
        self.rest = [Linear(3, 3, bias=False), Dropout(0.5)]
        self.rest[0].weight = self.first.weight


def test_names_and_sharing():
    module = Twice()
    assert [name for name, _ in module.named_parameters()] == ["first.weight", "first.bias", "rest.0.weight"]
    assert [p.shape for p in module.parameters()] == [(3, 3), (3,)]
    assert module.numel() == 12


def test_state_round_trip():
    one, other = Linear(3, 7), Linear(3, 7)
    assert not np.array_equal(one.weight.data, other.weight.data)
    other.load_state_dict(one.state_dict())
    assert np.array_equal(one.weight.data, other.weight.data)
    assert other.weight.data is not one.weight.data


def test_a_state_that_does_not_fit_names_every_problem_and_changes_nothing():
    module = Linear(3, 7)
    before = module.weight.data.copy()
    with pytest.raises(UserError) as caught:
        module.load_state_dict({"weight": np.zeros((7, 4)), "scale": np.zeros(7)})
    message = str(caught.value)
    assert "weight has shape (7, 4), not (7, 3)" in message
    assert "bias is missing" in message
    assert "scale is unexpected" in message
    assert np.array_equal(module.weight.data, before)
    module.load_state_dict({"bias": np.ones(7)}, strict=False)
    assert (module.bias.data == 1).all()


def test_of_many_problems_a_few_are_named():
    with pytest.raises(UserError, match=r"^the state does not fit Sequential: .*; and 3 more$"):
        Sequential(*[Linear(3, 3) for _ in range(4)]).load_state_dict({})


def test_a_layer_without_numbers_takes_no_memory():
    with meta():
        layer = Linear(10**6, 10**6)
    assert layer.weight.shape == (10**6, 10**6)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.data[0, 0] = 1
    assert Linear(3, 7).weight.data.any()


def test_modes_reach_every_level():
    module = Sequential(Linear(3, 3), Sequential(Dropout(0.5)))
    assert all(not m.training for m in module.eval().modules())
    assert len(list(module.train().modules())) == 4
    assert all(m.training for m in module.modules())


def test_frozen_parameters_get_no_gradient():
    layer = Linear(3, 3).requires_grad_(False)
    layer.bias.requires_grad_()
    layer(np.ones((2, 3), np.float32)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad.tolist() == [2, 2, 2]
    layer.zero_grad()
    assert layer.bias.grad is None


def test_conversion():
    assert all(p.dtype == np.float64 for p in Linear(3, 3).double().parameters())
