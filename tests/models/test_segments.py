"""Several texts in a row: the same losses and gradients as in rows of their own, and nothing passes between them."""

import numpy as np
import pytest

from tinygrad_llm import UserError, kernels, watch
from tinygrad_llm import functional as F
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig
from tinygrad_llm.models.language_model import texts

GPT_CONFIG = GPTConfig(vocab_size=33, block_size=32, n_layer=2, n_head=3, n_embd=24)
LLAMA_CONFIG = LlamaConfig(33, 32, 2, n_head=4, n_kv_head=2, n_embd=32, intermediate_size=48, attention_bias=True)
LENGTHS = (7, 1, 12, 3, 9)
ROWS = ((0, 1, 2), (3, 4))  # which text is in which row of 20


@pytest.fixture(params=["gpt", "llama"])
def model(request):
    return (GPT(GPT_CONFIG) if request.param == "gpt" else Llama(LLAMA_CONFIG)).double()


def batches():
    """ids, targets and segments: packed, and with a row for each text."""
    random = np.random.default_rng(0)
    ids, targets = ([random.integers(0, 33, n) for n in LENGTHS] for _ in range(2))
    packed = np.zeros((3, 2, 20), int)
    packed[1], packed[2] = -100, 9
    for row, members in enumerate(ROWS):
        start = 0
        for i in members:
            end = start + LENGTHS[i]
            packed[:, row, start:end] = ids[i], targets[i], np.full(LENGTHS[i], i)
            start = end
    padded = np.zeros((2, 5, 12), int)
    padded[1] = -100
    for i, n in enumerate(LENGTHS):
        padded[:, i, :n] = ids[i], targets[i]
    return packed, padded


def gradients(model, ids, targets, segments=None) -> tuple[float, dict]:
    model.zero_grad()
    loss = model.loss(ids, targets, segments=segments)
    loss.backward()
    return loss.item(), {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kernel_set", ["numpy", "numba"])
def test_packing_gives_the_gradients_of_padding(model, kernel_set):
    packed, padded = batches()
    with kernels.use(kernel_set):
        loss, of_packed = gradients(model, *packed)
        expected, of_padded = gradients(model, *padded)
    assert loss == pytest.approx(expected, rel=1e-12)
    for name, gradient in of_padded.items():
        scale = max(np.abs(gradient).max(), 1e-3)  # that of a key's bias is zero
        np.testing.assert_allclose(of_packed[name], gradient, rtol=0, atol=1e-10 * scale, err_msg=name)


def test_no_text_sees_another(model):
    (ids, _, segments), _ = batches()
    other = ids.copy()
    other[0, 8:] += 1
    other[1, :3] = 0
    before, after = (model.hidden(x % 33, segments=segments).data for x in (ids, other))
    np.testing.assert_array_equal(before[0, :8], after[0, :8])
    np.testing.assert_array_equal(before[1, 3:12], after[1, 3:12])
    assert np.abs(before[0, 8:] - after[0, 8:]).min(axis=-1).max() > 1e-6


def test_one_text_in_a_row_is_the_row(model):
    ids = np.random.default_rng(1).integers(0, 33, (2, 12))
    np.testing.assert_allclose(model(ids, segments=np.zeros_like(ids)).data, model(ids).data, rtol=0, atol=1e-12)


def test_texts_are_runs():
    segments = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [5, 4, 4, 3]])
    expected = [[0, 0, 2], [0, 2, 3], [0, 3, 4], [1, 0, 4], [2, 0, 1], [2, 1, 3], [2, 3, 4]]
    assert texts(segments).tolist() == expected


def test_dropout_drops_in_packed_rows():
    model = GPT(GPTConfig(33, 32, 1, n_head=3, n_embd=24, dropout=0.5))
    (ids, _, segments), _ = batches()
    assert (model(ids, segments=segments).data != model(ids, segments=segments).data).any()
    model.eval()
    np.testing.assert_array_equal(model(ids, segments=segments).data, model(ids, segments=segments).data)


def test_segments_that_do_not_fit_are_refused(model):
    ids = np.zeros((2, 5), int)
    with pytest.raises(UserError, match=r"segments \(2, 4\) must be as ids \(2, 5\)"):
        model.hidden(ids, segments=np.zeros((2, 4), int))
    with pytest.raises(UserError, match="without a cache"):
        model.hidden(ids, model.new_cache(2), np.zeros((2, 5), int))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ignored_targets_make_no_logits(model, reduction):
    """And the loss and its gradients are as of all logits."""
    ids = np.random.default_rng(2).integers(0, 33, (2, 12))
    targets = np.where(np.arange(12) < 7, -100, ids)
    rows = []

    def hook(phase, name, inputs, outputs, seconds):
        if (phase, name) == ("forward", "linear_cross_entropy"):
            rows.append(len(inputs[0]))

    with watch(hook):
        model.loss(ids, targets, reduction).backward()
    assert rows == [2 * 5]
    gradients = {name: p.grad.copy() for name, p in model.named_parameters()}
    model.zero_grad()
    F.cross_entropy(model(ids).reshape(-1, 33), targets.reshape(-1), reduction=reduction).backward()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(gradients[name], p.grad, rtol=0, atol=1e-10 * max(np.abs(p.grad).max(), 1e-3))
