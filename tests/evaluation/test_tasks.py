"""Each task against a plain transcription of its definition, with one sequence computed at a time."""

import json
import math
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import UserError, tokenizers
from tinygrad_llm.evaluation import Blimp, Lambada, MultipleChoice, Perplexity, evaluate, scoring
from tinygrad_llm.evaluation.tasks import windows

TEXT = "It is a far, far better thing that I do, than I have ever done;\nit is a far, far better rest that I go to. "
WORDS = TEXT.split()


def write(path, items) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def sentences(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(2, 12))) for _ in range(count)]


@pytest.fixture
def log_probs(plain, model, tokenizer):
    """By the definition, for texts that do not end in spaces and tokens that do not span the border."""

    def of(context: str, continuation: str) -> tuple[np.ndarray, bool]:
        start = tokenizer.encode(context).tolist() or sorted(tokenizer.eos_ids)
        return plain(model, start, tokenizer.encode(continuation).tolist())

    return of


def values(report) -> dict:
    return {(m.task, m.metric): m.value for m in report.metrics}


@pytest.mark.parametrize("stride", [1, 7, 24, 48])
def test_perplexity_is_that_of_a_direct_loop(model, tokenizer, plain, stride):
    text = TEXT * 2
    report = evaluate(Perplexity(text, tokenizer, 48, stride), model, tokenizer, batch_size=4)
    tokens = [*tokenizer.eos_ids, *tokenizer.encode(text).tolist()]
    total, scored = 0.0, 1
    for begin in range(0, len(tokens), stride):
        end = min(begin + 49, len(tokens))
        total -= plain(model, tokens[begin:scored], tokens[scored:end])[0].sum()
        scored = end
        if end == len(tokens):
            break
    n = len(tokens) - 1
    found = values(report)
    assert found["perplexity", "loss"] == pytest.approx(total / n, rel=1e-10)
    assert found["perplexity", "perplexity"] == pytest.approx(math.exp(total / n), rel=1e-10)
    assert found["perplexity", "bits_per_byte"] == pytest.approx(total / math.log(2) / len(text.encode()), rel=1e-10)
    assert {m.n for m in report.metrics} == {n}
    assert report.truncated == 0


@given(st.integers(2, 200), st.integers(1, 40), st.data())
def test_windows_score_every_token_once_with_enough_context(n, max_length, data):
    stride = data.draw(st.integers(1, max_length))
    scored = [0]
    for context, continuation in windows(np.arange(n), max_length, stride):
        assert len(context) + len(continuation) <= max_length + 1
        assert len(context) >= min(scored[-1] + 1, max_length - stride + 1)
        assert context[-1] == scored[-1]
        scored += continuation.tolist()
    assert scored == list(range(n))


def test_the_first_of_a_vocabulary_without_ends_is_not_scored(model, plain):
    tokenizer = tokenizers.load("byte")
    report = evaluate(Perplexity("abcd", tokenizer, 48), model, tokenizer)
    assert {m.n for m in report.metrics} == {3}
    loss = -plain(model, [97], [98, 99, 100])[0].mean()
    assert values(report)["perplexity", "bits_per_byte"] == pytest.approx(loss / math.log(2))


def test_lambada(model, tokenizer, log_probs, passages, tmp_path):
    texts = passages[1:]
    report = evaluate(Lambada(write(tmp_path / "x.jsonl", [{"text": t} for t in texts])), model, tokenizer)
    found = [log_probs(*(lambda a, b: (a, f" {b}"))(*t.rsplit(" ", 1))) for t in texts]
    assert 10 <= sum(greedy for _, greedy in found) < 30
    acc, losses = np.mean([greedy for _, greedy in found]), [-p.sum() for p, _ in found]
    assert values(report) == {
        ("lambada", "acc"): pytest.approx(acc),
        ("lambada", "perplexity"): pytest.approx(np.exp(np.mean(losses)), rel=1e-9),
    }
    error = np.std(losses, ddof=1) / math.sqrt(len(losses))
    assert report.metrics[1].stderr == pytest.approx(np.exp(np.mean(losses)) * error)


def test_blimp(model, tokenizer, log_probs, tmp_path):
    names, items = ["sentence_good", "sentence_bad"], []
    for i, pair in enumerate(zip(sentences(24, 1), sentences(24, 2), strict=True)):
        items.append(dict(zip(names, pair, strict=True)) | {"linguistics_term": f"p{i % 2}", "UID": f"u{i % 4}"})
    for i in range(4):
        write(tmp_path / f"u{i}.jsonl", [item for item in items if item["UID"] == f"u{i}"])
    right = [
        log_probs("", " " + item[names[0]])[0].sum()
        > log_probs("", " " + item[names[1]])[0].sum()
        for item in items
    ]
    expected = {("blimp", "acc"): np.mean(right)}
    for i in range(2):
        expected[f"blimp/p{i}", "acc"] = np.mean(right[i::2])
    for i in range(4):
        expected[f"blimp/p{i % 2}/u{i}", "acc"] = np.mean(right[i::4])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for i in range(4):
            archive.write(tmp_path / f"u{i}.jsonl", f"data/u{i}.jsonl")
        archive.writestr("__MACOSX/data/._u0.jsonl", b"\0")
    for source in (tmp_path, tmp_path / "all.zip"):
        report = evaluate(Blimp(source), model, tokenizer)
        assert values(report) == pytest.approx(expected)
        assert report.metrics[0].stderr == pytest.approx(np.std(right, ddof=1) / math.sqrt(24))
        assert evaluate(Blimp(source, limit=2), model, tokenizer).items == 8


def test_multiple_choice(model, tokenizer, log_probs, tmp_path):
    draw = np.random.default_rng(5)
    items = [
        {"ctx": ctx, "endings": sentences(4, 10 + i), "label": int(draw.integers(4))}
        for i, ctx in enumerate(sentences(15, 3))
    ]
    for item in items[::2]:
        item["endings"][1] += " Ω⁂Ω"  # where bytes and characters part
    items[0]["label"] = str(items[0]["label"])  # as some have it
    report = evaluate(MultipleChoice(write(tmp_path / "x.jsonl", items)), model, tokenizer)
    hits = {"acc": [], "acc_norm": [], "acc_bytes": []}
    for item in items:
        sums = [log_probs(item["ctx"], f" {ending}")[0].sum() for ending in item["endings"]]
        by_characters = [s / len(ending) for s, ending in zip(sums, item["endings"], strict=True)]
        by_bytes = [s / len(ending.encode()) for s, ending in zip(sums, item["endings"], strict=True)]
        for metric, scores in zip(hits, (sums, by_characters, by_bytes), strict=True):
            hits[metric].append(int(np.argmax(scores)) == int(item["label"]))
    assert values(report) == {("multiple-choice", metric): pytest.approx(np.mean(hits[metric])) for metric in hits}


def test_items_of_hellaswag_are_cleaned_as_the_harness_does(tmp_path):
    pytest.importorskip("lm_eval")
    from lm_eval.tasks.hellaswag.utils import preprocess

    item = {
        "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix  it. [step] Stir.", "ctx_b": "then you",
        "ctx": "-", "endings": ["eat [substeps] it.", " [title] wait  now"], "label": 1,
    }  # fmt: skip
    task = MultipleChoice(write(tmp_path / "x.jsonl", [item]))
    query = preprocess("Baking: " + item["ctx_a"] + " " + "Then you")
    assert task.pairs(task.items[0]) == [(query, " " + preprocess(ending)) for ending in item["endings"]]


def test_an_evaluation_that_is_stopped_reports_on_what_is_done(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "MOST_TOKENS", 100)
    task = Lambada(write(tmp_path / "x.jsonl", [{"text": t} for t in sentences(40, 0)]))
    heard = []
    report = evaluate(task, model, tokenizer, batch_size=2, tell=lambda done: heard.append(done) or len(heard) < 2)
    assert 0 < heard[0] < heard[1] < 40
    assert (report.done, report.items, {m.n for m in report.metrics}) == (heard[1], 40, {heard[1]})
    task.items = task.items[: heard[1]]
    assert values(report) == pytest.approx(values(evaluate(task, model, tokenizer, batch_size=5)))


def test_sequences_that_lose_their_beginning_are_counted(model, tokenizer, tmp_path):
    task = Lambada(write(tmp_path / "x.jsonl", [{"text": TEXT.strip()}, {"text": "It is"}]))
    report = evaluate(task, model, tokenizer, max_length=20)
    assert (report.truncated, report.tokens) == (1, 20 + len(tokenizer.encode("It is")) - 1)


GOOD = {"ctx": "a", "endings": ["b", "c"], "label": 0}


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        (Lambada, '{"text": "a b"}\n\n{"text": "a', r"x.jsonl, line 3: no JSON: "),
        (Lambada, '{"text": "a b"}\n[1]', r"x.jsonl, line 2: give a JSON object, not \[1\]$"),
        (Lambada, '{"txt": "a b"}', r"x.jsonl, line 1: there is no field 'text'$"),
        (Lambada, '{"text": 5}', r"x.jsonl, line 1: 'text' must be a text that is not empty, not 5$"),
        (Lambada, '{"text": ""}', r"line 1: 'text' must be a text that is not empty, not ''$"),
        (Lambada, "\n\n", r"x.jsonl has no items: give a file of one JSON object a line$"),
        (Lambada, "[" * 100_000, r"x.jsonl, line 1: no JSON: "),
        (Blimp, '{"sentence_good": "a"}', r"x.jsonl, line 1: there is no field 'sentence_bad'$"),
        (MultipleChoice, json.dumps(GOOD | {"endings": "b"}), r"line 1: 'endings' must be a list .*, not 'b'$"),
        (MultipleChoice, json.dumps(GOOD | {"endings": []}), r"line 1: 'endings' must be a list of texts"),
        (MultipleChoice, json.dumps(GOOD | {"endings": [1]}), r"line 1: 'endings' must be a list of texts"),
        (MultipleChoice, "\n" + json.dumps(GOOD | {"label": 2}), r"line 2: 'label' must be one of 0, 1, the right"),
        (MultipleChoice, '{"ctx": "a", "endings": ["b"]}', r"line 1: 'label' must be one of 0, the right"),
    ],
)
def test_a_damaged_file_is_one_line_that_says_where(tmp_path, task, lines, message):
    path = tmp_path / "x.jsonl"
    path.write_text(lines)
    with pytest.raises(UserError, match=message) as error:
        task(path)
    assert "\n" not in str(error.value)


def test_no_files(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"cannot read .*nowhere.jsonl"):
        Lambada(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match=r"x.zip is damaged or no zip archive"):
        Blimp(tmp_path / "x.zip")
    with pytest.raises(UserError, match=r"has no .jsonl files in it"):
        Blimp(tmp_path)
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(UserError, match=r"x.jsonl"):
        Lambada(tmp_path / "x.jsonl")


def test_windows_and_texts_out_of_range(tokenizer):
    for stride in (0, 49):
        with pytest.raises(UserError, match=f"stride must be from 1 to 48, what a window sees, not {stride}"):
            Perplexity(TEXT, tokenizer, 48, stride)
    with pytest.raises(UserError, match="the text is too short"):
        Perplexity("", tokenizer, 48)
