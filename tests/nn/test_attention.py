"""The ladder: each rung equals the one below where its idea does nothing, and does its own thing where it does."""

import numpy as np
import pytest

from tinygrad_llm import Tensor, UserError, manual_seed
from tinygrad_llm.nn import (
    Cache,
    CausalAttention,
    DropoutAttention,
    KVCache,
    MultiHeadAttention,
    SelfAttention,
    SplitHeads,
    StackedHeads,
    attention_without_weights,
)

B, T, C, H = 2, 7, 12, 3


@pytest.fixture
def x():
    return Tensor(np.random.default_rng(0).normal(size=(B, T, C)))


def same(a: Tensor, b: Tensor) -> bool:
    return np.allclose(a.data, b.data, rtol=1e-12, atol=1e-12)


def test_2_equals_1_with_identity_weights(x):
    rung = SelfAttention(C, C).double()
    for projection in (rung.query, rung.key, rung.value):
        projection.weight.data[...] = np.eye(C)
    rung.query.weight.data *= np.sqrt(C)  # rung 1 does not scale
    assert same(rung(x), attention_without_weights(x))


def test_3_equals_2_for_the_last_token_and_hides_the_future(x):
    plain, causal = SelfAttention(C, C).double(), CausalAttention(C, C).double()
    causal.load_state_dict(plain.state_dict())
    assert same(causal(x)[:, -1], plain(x)[:, -1])
    assert not same(causal(x)[:, 0], plain(x)[:, 0])
    changed = Tensor(x.data.copy())
    changed.data[:, 4:] = 9.0
    assert np.array_equal(causal(x).data[:, :4], causal(changed).data[:, :4])


def test_4_equals_3_when_evaluating_and_drops_the_right_share_when_training(x):
    causal, dropping = CausalAttention(C, C).double(), DropoutAttention(C, C, dropout=0.25).double()
    dropping.load_state_dict(causal.state_dict())
    assert same(dropping.eval()(x), causal(x))
    manual_seed(0)
    weights = dropping.train().weights(Tensor(np.zeros((1, 400, 400)))).data[0]
    below = np.tri(400, dtype=bool)
    assert (weights[~below] == 0).all()
    assert np.mean(weights[below] == 0) == pytest.approx(0.25, abs=0.01)
    kept = (np.tri(400) / np.arange(1, 401)[:, None] / 0.75)[weights > 0]
    assert np.allclose(weights[weights > 0], kept)


def test_6_equals_5_with_the_heads_weights_stacked(x):
    stacked, split = StackedHeads(C, H).double(), SplitHeads(C, H).double()
    state = {
        f"{name}.weight": np.concatenate([getattr(head, name).weight.data for head in stacked.heads])
        for name in ("query", "key", "value")
    }
    split.load_state_dict({**state, **{f"project.{k}": v for k, v in stacked.project.state_dict().items()}})
    assert same(split(x), stacked(x))


def fused_from(split: SplitHeads) -> MultiHeadAttention:
    fused = MultiHeadAttention(C, H).double()
    projections = (split.query, split.key, split.value)
    fused.load_state_dict(
        {
            "c_attn.weight": np.concatenate([p.weight.data for p in projections]),
            "c_attn.bias": np.concatenate([p.bias.data for p in projections]),
            "c_proj.weight": split.project.weight.data,
            "c_proj.bias": split.project.bias.data,
        }
    )
    return fused


def test_7_equals_6_forward_and_backward(x):
    split = SplitHeads(C, H, bias=True).double()
    fused = fused_from(split)
    for rung in (split, fused):
        rung.input = Tensor(x.data.copy(), requires_grad=True)
        rung.output = rung(rung.input)
        rung.output.backward(np.random.default_rng(1).normal(size=(B, T, C)))
    assert same(fused.output, split.output)
    assert np.allclose(fused.input.grad, split.input.grad, rtol=1e-12)
    gradients = np.concatenate([p.weight.grad for p in (split.query, split.key, split.value)])
    assert np.allclose(fused.c_attn.weight.grad, gradients, rtol=1e-12)


@pytest.mark.parametrize("pieces", [[1] * T, [4, 3], [4, 1, 2], [T]])
def test_a_cache_gives_what_the_whole_sequence_gives(x, pieces):
    attention = MultiHeadAttention(C, H).double()
    cache = Cache([KVCache(B, H, T, C // H, np.float64)])
    parts = np.split(x.data, np.cumsum(pieces)[:-1], axis=1)
    outputs = [attention(Tensor(part), cache.layers[0], cache.mask(part.shape[1])).data for part in parts]
    assert np.allclose(np.concatenate(outputs, 1), attention(x).data, rtol=1e-12, atol=1e-14)


def test_heads_must_share_the_width():
    with pytest.raises(UserError, match="n_embd 12 is not divisible by n_head 5"):
        MultiHeadAttention(12, 5)
