"""Classification: what a run learns and leaves, resuming to the same bits, scores as scikit-learn's, bad data."""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from tinygrad_llm import UserError, random
from tinygrad_llm.finetuning import classify
from tinygrad_llm.finetuning.classify import Classify, ClassifyConfig, downsample, load_run, score
from tinygrad_llm.finetuning.data import Entry
from tinygrad_llm.finetuning.report import Report
from tinygrad_llm.finetuning.scores import accuracy, class_scores, confusion_matrix
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.tokenizers import CharTokenizer
from tinygrad_llm.training import checkpoint
from tinygrad_llm.training.metrics import read_metrics

SHAPE = {"vocab_size": 256, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}


@pytest.fixture
def data(tmp_path):
    """120 texts: the good ones end otherwise than the bad ones, of which there are fewer."""
    draw = np.random.default_rng(0)
    lines = [(label, f"{'abcdefgh'[i]} is {end}") for label, end in (("good", "fine!"), ("bad", "poor?"))
             for i in draw.integers(0, 8, 80 if label == "good" else 40)]  # fmt: skip
    (tmp_path / "texts.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in lines))
    return tmp_path / "texts.tsv"


@pytest.fixture
def config(base, data):
    def make(**changes) -> ClassifyConfig:
        settings = {"model": str(base), "data": str(data), "learning_rate": 1e-2, "warmup_iters": 2, "epochs": 1.0}
        return ClassifyConfig(**settings | changes)

    return make


def bits(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_learns_and_leaves_its_report(tmp_path, config):
    tuner = Classify(config(), tmp_path / "run")
    tuner.train()
    report = tuner.finish()
    lines = read_metrics(tmp_path / "run")
    assert {line["split"] for line in lines if "accuracy" in line} == {"train", "val"}
    values = json.loads((tmp_path / "run/report.json").read_text())
    assert values == report.values
    assert values["test"]["accuracy"] == 1 and values["test"]["macro_f1"] == 1
    assert values["examples"] == {"train": 84, "val": 12, "test": 24}
    html = (tmp_path / "run/report.html").read_text()
    HTMLParser().feed(html)
    assert html.count("<svg") == 1 and "<script" not in html
    assert not re.search(r'(src|href)="http', html)  # it is one file
    assert "100.00%" in report.summary()
    model, tokenizer = load_run(tmp_path / "run")
    logits = score(model, [tokenizer.encode(text).tolist() for text in ("z is fine!", "z is poor?")], 0)
    assert [model.labels[i] for i in logits.argmax(1)] == ["good", "bad"]


VARIANTS = {
    "all": {"balance": "weights", "dtype": "float64"},
    "last block": {"train": "last:1", "pooling": "mean"},
    "head": {"train": "head"},
    "adapters": {"lora": LoRAConfig(rank=2, dropout=0.1), "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, config, interrupted, variant):
    settings = config(**VARIANTS[variant], max_iters=8, eval_interval=4)
    whole = Classify(settings, tmp_path / "whole")
    before = {name: p.data.copy() for name, p in whole.model.named_parameters()}
    whole.train()
    for name, parameter in whole.model.named_parameters():
        assert (parameter.data != before[name]).any() == parameter.requires_grad, name
    parts = Classify(settings, tmp_path / "parts")
    interrupted(parts, 4)
    assert checkpoint.newest(tmp_path / "parts").name == "step-000005"
    random.manual_seed(99)  # whatever happens in between
    resumed = Classify(settings, tmp_path / "parts")
    resumed.train()
    last = "checkpoints/step-000008"
    assert bits(tmp_path / "parts" / last) == bits(tmp_path / "whole" / last)
    assert resumed.finish().values == whole.finish().values
    model, _ = load_run(tmp_path / "parts" / last)
    rows = [example.ids for example in whole.examples["test"]]
    opened = whole.open(tmp_path / "parts" / last).eval()
    np.testing.assert_array_equal(score(model, rows, 0), score(opened, rows, 0))


def test_the_best_checkpoint_is_taken_at_the_end_and_by_classify(tmp_path, config):
    tuner = Classify(config(max_iters=8, eval_interval=2, learning_rate=3e-3), tmp_path)
    losses = iter([1.0, 1.0, 0.5, 0.9, 0.9])  # at 0, 2, 4, 6, 8
    tuner.measure = lambda: {"val": {"loss": next(losses)}}
    tuner.train()
    best = tuner.open(tmp_path / "checkpoints/step-000004")
    assert tuner.finish().values["best_step"] == 4
    found, _ = load_run(tmp_path)
    for name, array in best.state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[name], array)
        np.testing.assert_array_equal(tuner.model.state_dict()[name], array)


def test_class_weights_make_classes_weigh_the_same(tmp_path, config):
    tuner = Classify(config(balance="weights", train="head"), tmp_path)
    counts = np.bincount([e.label for e in tuner.examples["train"]])
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    labels = np.array([e.label for e in tuner.examples["train"]])
    np.testing.assert_allclose(tuner.weights, compute("balanced", classes=np.unique(labels), y=labels), rtol=1e-6)
    np.testing.assert_allclose(tuner.weights * counts, len(labels) / 2, rtol=1e-6)
    batch = next(tuner.batches)
    exact = np.average(-np.log(softmax(tuner, batch)), weights=tuner.weights[batch.labels])
    assert tuner.loss(batch).item() / tuner.weight(batch) == pytest.approx(exact, rel=1e-5)


def softmax(tuner, batch):
    """What the model gives each text's own label (B,)."""
    p = np.exp(tuner.model(batch.ids, batch.lengths).data)
    return (p / p.sum(1, keepdims=True))[np.arange(len(p)), batch.labels]


def test_micro_batches_give_the_whole_batchs_gradient(tmp_path, config):
    gradients = []
    for size, parts in ((6, 1), (2, 3)):
        settings = config(balance="weights", batch_size=size, gradient_accumulation_steps=parts, dtype="float64")
        tuner = Classify(settings, tmp_path / str(parts))
        examples = tuner.examples["train"][:6]
        tuner.optimize([tuner.collate(examples[i : i + size]) for i in range(0, 6, size)])
        gradients.append(tuner.optimizer.grad.copy())
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=0, atol=1e-12 * np.abs(gradients[0]).max())


def test_downsampling_keeps_as_many_of_each_as_of_the_rarest_class():
    entries = [Entry(str(i), {"label": "abbccc"[i % 6]}) for i in range(60)]
    kept = downsample(entries, "label", seed=1)
    assert Counter(entry.fields["label"] for entry in kept) == {"a": 10, "b": 10, "c": 10}
    assert kept == sorted(kept, key=lambda entry: int(entry.where))
    assert kept == downsample(entries, "label", seed=1) != downsample(entries, "label", seed=2)


def test_long_texts_lose_their_end_and_are_counted(tmp_path, config, data):
    data.write_text(data.read_text() + f"good\t{'long' * 9}\ngood\t{'x' * 24}\n")
    tuner = Classify(config(), tmp_path / "a")
    examples = [e for part in tuner.examples.values() for e in part]
    assert tuner.truncated == 1 and max(len(e.ids) for e in examples) == 24
    assert "1 lost what came after token 24" in tuner.about_data()
    assert Classify(config(max_length=4), tmp_path / "b").truncated == 122


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    true, found = draw.integers(0, 4, 50), draw.integers(0, 3, 50)  # class 3 is never found
    matrix = confusion_matrix(true, found, 4)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(true, found))
    exact = metrics.precision_recall_fscore_support(true, found, zero_division=0)[:3]
    np.testing.assert_allclose([*class_scores(matrix).values()], exact)
    assert accuracy(matrix) == metrics.accuracy_score(true, found)


def test_scores_do_not_depend_on_the_company_of_a_text(tmp_path, config, monkeypatch):
    tuner = Classify(config(dtype="float64"), tmp_path)
    rows = [example.ids for example in tuner.examples["train"]]
    together = score(tuner.model.eval(), rows, 0)
    monkeypatch.setattr(classify, "MOST_TOKENS", 1)
    np.testing.assert_allclose(score(tuner.model, rows, 0), together, rtol=1e-9)


GOOD = "a\tone\nb\ttwo\n" * 5
BAD_DATA = {
    "a class with one example": (GOOD + "c\tonly\n", {}, "the class 'c' has 1 example: it needs 3, to train"),
    "one class": ("a\tone\n" * 9, {}, "there must be at least two classes, each once, not a"),
    "a label outside the set": (GOOD + "c\tx\n", {"labels": "a, b"}, "line 11: the label 'c' is none of a, b"),
    "a class without examples": (GOOD, {"labels": "a,b,c"}, "the class 'c' has 0 examples"),
    "a class given twice": (GOOD, {"labels": "a,b,a"}, "at least two classes, each once, not a, b, a"),
    "an empty text": (GOOD + "a\t \n", {}, "line 11: 'text' is empty"),
    "a line of one field": (GOOD + "a\n", {}, "line 11: it has 1 fields, not the 2"),
    "no entries": ("label\ttext\n", {}, "holds no entries"),
    "too few": ("a\tx\nb\ty\n" * 3, {}, "6 examples are too few: none is left for val"),
    "more blocks than there are": (GOOD, {"train": "last:3"}, "the last 3 blocks are more than the model's 2"),
    "a target of no layer": (GOOD, {"lora": LoRAConfig(target="nope")}, "nope"),
    "no such model": (GOOD, {"model": "nowhere"}, "nowhere"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_line_and_leaves_nothing(tmp_path, config, case):
    text, changes, message = BAD_DATA[case]
    (tmp_path / "bad.tsv").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Classify(config(data=str(tmp_path / "bad.tsv"), **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_json_entry_without_its_field_is_named(tmp_path, config):
    entries = [{"text": "one", "label": 0}, {"text": "two", "label": 1}] * 5
    (tmp_path / "a.json").write_text(json.dumps(entries))
    assert Classify(config(data=str(tmp_path / "a.json"), train="head"), tmp_path / "run").labels == ["0", "1"]
    for field in ("text", "label"):
        (tmp_path / "a.json").write_text(json.dumps([*entries, {k: v for k, v in entries[0].items() if k != field}]))
        with pytest.raises(UserError, match=f"a.json, entry 11: there is no field '{field}'"):
            Classify(config(data=str(tmp_path / "a.json")), tmp_path / "run2")


def test_a_character_that_the_tokenizer_has_not_is_named_with_its_line(tmp_path, config):
    tokenizer = CharTokenizer.train("onetw")
    save_pretrained(GPT(GPTConfig(**SHAPE | {"vocab_size": 5})), tmp_path / "chars", tokenizer)
    (tmp_path / "a.tsv").write_text(GOOD + "a\tz\n")
    with pytest.raises(UserError, match=r"a.tsv, line 11: .*'z'"):
        Classify(config(data=str(tmp_path / "a.tsv"), model=str(tmp_path / "chars")), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "most"}, "train must be all, head or last:N, such as last:1, not 'most'"),
        ({"train": "last:0"}, "train must be all, head or last:N"),
        ({"train": "head", "lora": LoRAConfig()}, "train head and lora exclude each other"),
        ({"quantized": True}, "quantized weights are not trained"),
        ({"epochs": 0.0}, "epochs must be more than 0"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"val_fraction": 0.5}, "together at most 1, not 0.7 and 0.5"),
        ({"model": ""}, "there is no model: give --model"),
    ],
)
def test_settings_that_do_not_work_are_one_line(config, changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_changed_data_is_noticed_on_resuming(tmp_path, config, data):
    Classify(config(max_iters=1, train="head"), tmp_path / "run").train()
    data.write_text(data.read_text() + "good\tanother\n")
    with pytest.raises(UserError, match="has changed since"):
        Classify(config(max_iters=2, train="head"), tmp_path / "run")


def test_a_report_shows_text_as_text():
    report = Report("<b>", "a & b")
    report.table(["<i>", "n"], [["</td>", 1], ["x" * 50, 2.5]])
    report.compare(["prompt", "<after>"], [["<script>alert(1)</script>", "fine"]])
    report.confusion(["<ham>", "spam"], np.array([[3, 1], [0, 4]]))
    html = report.html()
    assert "<script>" not in html and "&lt;script&gt;" in html and "<ham>" not in html
    assert "75.0%" in html and "100.0%" in html
