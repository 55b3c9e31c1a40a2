"""Classifiers against transformers': logits, loss, gradients, files there and back; what is frozen, and padding."""

import json
from collections import Counter

import numpy as np
import pytest

from tinygrad_llm import UserError, autograd, manual_seed, tokenizers
from tinygrad_llm import functional as F
from tinygrad_llm.formats.classifier import load_classifier, save_classifier
from tinygrad_llm.formats.huggingface import save_pretrained, to_huggingface
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig, SequenceClassifier
from tinygrad_llm.models.heads import freeze
from tinygrad_llm.roofline import WorkCounter

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

COMMON = {"vocab_size": 97, "pad_token_id": 96, "bos_token_id": None, "eos_token_id": None}
COMMON |= {"id2label": {0: "ham", 1: "spam", 2: "eggs"}, "initializer_range": 0.2}
LLAMA = COMMON | {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA |= {"intermediate_size": 40, "max_position_embeddings": 64}
DROP = dict.fromkeys(["embd_pdrop", "resid_pdrop", "attn_pdrop"], 0.0)
CONFIGS = {  # and what transformers loses on the way: its Llamas turn by angles in float32, whatever the model's dtype
    "gpt2": (lambda: transformers.GPT2Config(**COMMON, **DROP, n_embd=24, n_layer=2, n_head=3, n_positions=64), 1e-10),
    "llama": (lambda: transformers.LlamaConfig(**LLAMA), 1e-5),
    "qwen2": (lambda: transformers.Qwen2Config(**LLAMA, use_sliding_window=False), 1e-5),
}
IDS = np.random.default_rng(0).integers(0, 96, (5, 13))
LENGTHS = np.array([13, 1, 7, 12, 3])
IDS[np.arange(13) >= LENGTHS[:, None]] = 96
LABELS = np.array([0, 2, 1, 1, 0])
WEIGHTS = np.array([0.5, 2.0, 1.25])


def close(ours, exact, tolerance):
    return np.abs(ours - exact).max() <= tolerance * np.abs(exact).max()


def classifier(kind="gpt", pooling="last", **changes) -> SequenceClassifier:
    manual_seed(5)
    shape = {"vocab_size": 97, "block_size": 64, "n_layer": 3, "n_head": 4, "n_embd": 24} | changes
    trunk = GPT(GPTConfig(**shape)) if kind == "gpt" else Llama(LlamaConfig(**shape, intermediate_size=40))
    for parameter in trunk.parameters():
        parameter.data = parameter.data + np.random.default_rng(2).normal(0, 0.2, parameter.shape)
    return SequenceClassifier(trunk.double(), ["ham", "spam"], pooling)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_loss_and_every_gradient_are_those_of_transformers(name, tmp_path):
    config, tolerance = CONFIGS[name]
    torch.manual_seed(1)
    theirs = transformers.AutoModelForSequenceClassification.from_config(config()).double().eval()
    theirs.save_pretrained(tmp_path)
    ours = load_classifier(tmp_path)
    assert ours.labels == ["ham", "spam", "eggs"]
    logits = ours(IDS, LENGTHS)
    expected = theirs(torch.tensor(IDS), attention_mask=torch.tensor(IDS != 96).long()).logits
    assert close(logits.data, expected.detach().numpy(), tolerance)
    loss = F.cross_entropy(logits, LABELS, WEIGHTS)
    expected = torch.nn.functional.cross_entropy(expected, torch.tensor(LABELS), torch.tensor(WEIGHTS))
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    loss.backward()
    expected.backward()
    for parameter in ours.parameters():
        parameter.data = parameter.grad
    gradients = to_huggingface(ours.trunk) | {"score.weight": ours.score.weight.grad}
    exact = {parameter_name: p.grad.numpy() for parameter_name, p in theirs.named_parameters()}
    assert gradients.keys() == exact.keys()
    scale = max(np.abs(gradient).max() for gradient in exact.values())  # a key's bias has gradient zero
    for parameter_name, gradient in gradients.items():
        assert np.abs(gradient - exact[parameter_name]).max() <= tolerance * scale, parameter_name


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_transformers_opens_what_we_save_and_we_too(kind, tmp_path):
    model = classifier(kind, tie_weights=False)
    save_classifier(model, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
    assert theirs.config.id2label == {0: "ham", 1: "spam"}
    ours = load_classifier(tmp_path, np.float64)
    for row, length in zip(IDS, LENGTHS, strict=True):  # one by one: without a tokenizer there is no token to pad with
        expected = theirs(torch.tensor(row[None, :length])).logits.detach().numpy()
        np.testing.assert_allclose(ours(row[None], [length]).data, expected, rtol=1e-5, atol=1e-6)


def test_with_a_tokenizer_transformers_pads_a_batch_as_we_do(tmp_path):
    tokenizer = tokenizers.BPETokenizer.train("the quick brown fox " * 9, 270)
    model = classifier(vocab_size=tokenizer.vocab_size)
    save_classifier(model, tmp_path, tokenizer)
    pipe = transformers.pipeline("text-classification", str(tmp_path), dtype=torch.float64, device="cpu")
    pipe.tokenizer.pad_token_id = pipe.model.config.pad_token_id
    texts = ["the fox", "quick brown fox the the", "q"]
    ids = [tokenizer.encode(text) for text in texts]
    for text, row, found in zip(texts, ids, pipe(texts, batch_size=3), strict=True):
        logits = model(row[None], [len(row)])
        assert found["score"] == pytest.approx(logits.softmax(-1).data.max(), rel=1e-6), text
        assert found["label"] == model.labels[logits.data.argmax()]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_padding_changes_nothing_and_pooling_is_what_it_says(kind, pooling):
    model = classifier(kind, pooling)
    together = model(IDS, LENGTHS).data
    for row, length, logits in zip(IDS, LENGTHS, together, strict=True):
        alone = row[None, :length]
        np.testing.assert_allclose(model(alone, [length]).data[0], logits, rtol=1e-10)
        h = model.trunk.hidden(alone).data[0]
        vector = h[-1] if pooling == "last" else h.mean(0)
        np.testing.assert_allclose(vector @ model.score.weight.data.T, logits, rtol=1e-10)


def test_what_is_frozen_has_no_gradient_and_its_products_are_not_computed():
    work, trained = {}, {}
    for last in (None, 1, 0):
        model = classifier()
        if last is not None:
            freeze(model.trunk, last)
        counter, flops = WorkCounter(), Counter()

        def count(phase, name, inputs, outputs, seconds, counter=counter, flops=flops):
            flops[phase] += counter(phase, name, inputs, outputs).flops

        with autograd.watch(count):
            F.cross_entropy(model(IDS, LENGTHS), np.minimum(LABELS, 1)).backward()
        trained[last] = {name for name, p in model.named_parameters() if p.grad is not None}
        work[last] = flops["backward"] / flops["forward"]
        assert trained[last] == {name for name, p in model.named_parameters() if p.requires_grad}
    names = {name for name, _ in classifier().named_parameters()}
    assert trained[None] == names
    assert trained[1] == {n for n in names if n.startswith(("trunk.h.2.", "trunk.ln_f.", "score."))}
    assert trained[0] == {"score.weight"}
    assert work[None] == pytest.approx(2, rel=0.01)
    assert 0.5 < work[1] < 0.7  # two products for each of one block's three
    assert work[0] < 0.001
    with pytest.raises(UserError, match="the last 4 blocks are more than the model's 3"):
        freeze(classifier().trunk, 4)


def test_what_is_no_classifier_is_one_line(tmp_path):
    model = classifier()
    save_pretrained(model.trunk, tmp_path / "model")
    with pytest.raises(UserError, match=r"is no classifier: it has no score.weight"):
        load_classifier(tmp_path / "model")
    with pytest.raises(UserError, match="no classifier at"):
        load_classifier(tmp_path / "nowhere")
    save_classifier(model, tmp_path / "whole")
    path = tmp_path / "whole/config.json"
    config = json.loads(path.read_text())
    for change, message in {
        ("pooling", "max"): "pooling is 'max', but must be one of last, mean",
        ("id2label", ("a", "b", "c")): r"score.weight has shape \(2, 24\), not \(3, 24\)",
        ("id2label", 7): "is not what it should be",
    }.items():
        name, value = change
        value = dict(enumerate(value)) if isinstance(value, tuple) else value
        path.write_text(json.dumps(config | {name: value}))
        with pytest.raises(UserError, match=message) as caught:
            load_classifier(tmp_path / "whole")
        assert "\n" not in str(caught.value)
