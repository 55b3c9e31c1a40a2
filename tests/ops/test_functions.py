"""Operations that are others under other arguments, and every operator: one expression for torch and for us."""

import numpy as np
import pytest
import torch

from tinygrad_llm import Tensor, ops
from tinygrad_llm.errors import UserError

EXPRESSIONS = {
    "squeeze": lambda o, x: x.reshape(1, 3, 1, 7).squeeze(),
    "squeeze dim": lambda o, x: x.reshape(1, 3, 1, 7).squeeze(-2),
    "squeeze dims": lambda o, x: x.reshape(1, 3, 1, 7).squeeze((0, 1)),
    "unsqueeze": lambda o, x: x.unsqueeze(1) * x.unsqueeze(-1).transpose(0, 1).reshape(7, 3, 1).permute(1, 2, 0),
    "flatten": lambda o, x: x.unsqueeze(0).flatten(),
    "flatten dims": lambda o, x: x.reshape(3, 1, 7, 1).flatten(1, -2),
    "flatten number": lambda o, x: x.sum().flatten(),
    "view": lambda o, x: x.view(7, -1),
    "transpose": lambda o, x: x.transpose(0, -1) * 2.0,
    "t": lambda o, x: x.t() @ x[:, 0].t(),
    "T": lambda o, x: x.T @ x,
    "mT": lambda o, x: x @ x.mT,
    "split": lambda o, x: x.split(3, dim=1)[2] * x.split(3, 1)[0][:, :1],
    "split sections": lambda o, x: x.split([1, 2])[1] + x.split([1, 2])[0],
    "cat": lambda o, x: o.cat([x, x * x, x], dim=1),
    "stack": lambda o, x: o.stack([x, x * x], dim=-1),
    "max": lambda o, x: x.max(),
    "max dim": lambda o, x: x.max(1)[0],
    "max dim keepdim": lambda o, x: x.max(-2, keepdim=True)[0],
    "max indices": lambda o, x: x.max(dim=1)[1],
    "min": lambda o, x: x.min(),
    "min dim": lambda o, x: x.min(0)[0],
    "min indices": lambda o, x: x.min(0)[1],
    "argmax": lambda o, x: x.argmax(),
    "argmax dim": lambda o, x: x.argmax(dim=-1, keepdim=True),
    "std": lambda o, x: x.std(),
    "std dim": lambda o, x: x.std(dim=1, keepdim=True, correction=0),
    "std of equals": lambda o, x: (x * 0.0).std(0) + x.std(0),
    "where": lambda o, x: x.where(x > 0, x * 0.1),
    "where function": lambda o, x: o.where(x > 0, x, -1.0),
    "masked_fill": lambda o, x: x.masked_fill(x < 0, 0.5),
    "by name": lambda o, x: o.gather(x, dim=1, index=x.argmax(dim=1, keepdim=True)),
    "mask index": lambda o, x: x[x > 0],
    "tensor index": lambda o, x: x[x.argmax(0), x.argmax(0)] + x[:, x.argmax(1)[0]].sum(),
    "clamp": lambda o, x: x.clamp(min=-0.5).clamp(max=0.5),
    "operators": lambda o, x: 2 / (1.5 + abs(x)) - (3 - x) * 2.0**x + (-x) ** 2 / 4,
    "reused": lambda o, x: x * x + x.exp() * x,
    "to": lambda o, x: x.double() * 2 + x.to(x.dtype),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("values", ["normal", "ties"])
def test_expression(name, values):
    random = np.random.default_rng(3)
    array = random.normal(size=(3, 7)) if values == "normal" else random.integers(-1, 2, size=(3, 7)).astype(float)
    ours, theirs = Tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
    y, expected = EXPRESSIONS[name](ops, ours), EXPRESSIONS[name](torch, theirs)
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-12)
    assert y.dtype == expected.detach().numpy().dtype
    assert y.requires_grad == expected.requires_grad
    if y.requires_grad:
        w = random.normal(size=y.shape)
        y.backward(w)
        expected.backward(torch.tensor(w))
        np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_split_that_does_not_add_up():
    with pytest.raises(UserError, match="must add up to 7"):
        Tensor(np.zeros((3, 7))).split([3, 3], dim=1)


@pytest.mark.parametrize("call", [
    lambda x: x.unsqueeze(4), lambda x: x.squeeze(2), lambda x: x.permute(0, 0), lambda x: x.reshape(4, 4),
    lambda x: x.transpose(0, 2), lambda x: x.flatten(0, 2), lambda x: x[5], lambda x: x @ x, lambda x: x.expand(4, 7),
    lambda x: x.sum(2), lambda x: x.flatten(3), lambda x: x.expand(7),
    lambda x: x.sum().cumsum(0), lambda x: x.gather(0, np.array([0])), lambda x: x[0].tril(), lambda x: x[0].triu(),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(call):
    with pytest.raises((IndexError, ValueError)):
        call(Tensor(np.zeros((3, 7))))
