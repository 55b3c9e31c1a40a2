"""Layers start as torch.nn's do: the same distribution, the same defaults."""

import numpy as np
import pytest
import torch

from tinygrad_llm import manual_seed, nn


def test_linear_and_embedding_start_like_torch():
    manual_seed(1)
    ours, theirs = nn.Linear(97, 1023).weight.data, torch.nn.Linear(97, 1023).weight.detach().numpy()
    assert ours.dtype == np.float32
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    assert abs(ours).max() == pytest.approx(abs(theirs).max(), rel=0.01)
    assert nn.Embedding(1023, 97).weight.data.std() == pytest.approx(1, rel=0.02)
    assert (nn.Embedding(7, 3, padding_idx=2).weight.data[2] == 0).all()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.LayerNorm(33), torch.nn.LayerNorm(33)),
        (nn.LayerNorm(33, bias=False), torch.nn.LayerNorm(33, bias=False)),
        (nn.RMSNorm(33), torch.nn.RMSNorm(33, eps=1e-6)),
        (nn.GELU(), torch.nn.GELU()),
        (nn.GELU("tanh"), torch.nn.GELU("tanh")),
        (nn.Sequential(nn.LayerNorm(33), nn.GELU()), torch.nn.Sequential(torch.nn.LayerNorm(33), torch.nn.GELU())),
    ],
)
def test_layers_compute_what_torch_computes(ours, theirs):
    x = np.random.default_rng(0).normal(size=(3, 33)).astype(np.float32)
    assert np.allclose(ours(nn.Parameter(x)).data, theirs(torch.tensor(x)).detach().numpy(), atol=2e-6)


def test_dropout_drops_its_share_and_keeps_the_mean():
    manual_seed(0)
    x = nn.Parameter(np.ones((300, 300), np.float32))
    layer = nn.Dropout(0.3)
    y = layer(x).data
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.01)
    assert layer.eval()(x) is x
