"""EleutherAI's harness on our models: its tasks, on local files, give what ours do."""

import json

import numpy as np
import pytest

from tinygrad_llm import UserError, tokenizers
from tinygrad_llm.evaluation import Blimp, Lambada, MultipleChoice, evaluate, score

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tinygrad-llm[eval]'")

WORDS = "it is a far , better thing that I do than have ever done".split()


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it asks pip and the compilers


@pytest.fixture
def harness(model, tokenizer):
    from tinygrad_llm.evaluation.harness import HarnessModel

    return HarnessModel(model, tokenizer, batch_size=3)


def sentences(count: int, seed: int, longest: int = 10) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(2, longest))) for _ in range(count)]


def run(harness, path, items, **task) -> dict:
    """The metrics that the harness finds for a task on items."""
    from lm_eval.tasks import TaskManager

    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {"task": "local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}} | task
    metrics = [{"metric": name, "aggregation": how} for name, how in task.pop("metrics").items()]
    task |= {"test_split": "test", "metric_list": metrics}
    found = lm_eval.simple_evaluate(
        model=harness, tasks=[task], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )
    return {name.removesuffix(",none"): value for name, value in found["results"]["local"].items()}


def test_lambada(harness, model, tokenizer, passages, tmp_path):
    items = [{"text": text} for text in passages]
    found = run(
        harness, tmp_path / "x.jsonl", items, output_type="loglikelihood",
        doc_to_text="{{text.split(' ')[:-1]|join(' ')}}", doc_to_target="{{' '+text.split(' ')[-1]}}",
        metrics={"acc": "mean", "perplexity": "perplexity"},
    )  # fmt: skip
    report = evaluate(Lambada(tmp_path / "x.jsonl"), model, tokenizer)
    assert report.truncated > 0
    assert 0 < report.metrics[0].value < 1
    assert {m.metric: m.value for m in report.metrics} == pytest.approx({m: found[m] for m in ("acc", "perplexity")})


def test_multiple_choice(harness, model, tokenizer, tmp_path):
    items = [
        {"ctx": ctx, "endings": [ending + " Ω" * (i % 3) for ending in sentences(4, i)], "label": i % 4}
        for i, ctx in enumerate(sentences(21, 99))
    ]
    found = run(
        harness, tmp_path / "x.jsonl", items, output_type="multiple_choice",
        doc_to_text="{{ctx}}", doc_to_target="{{label}}", doc_to_choice="endings",
        metrics={"acc": "mean", "acc_norm": "mean", "acc_bytes": "mean"},
    )  # fmt: skip
    for m in evaluate(MultipleChoice(tmp_path / "x.jsonl"), model, tokenizer).metrics:
        assert m.value == pytest.approx(found[m.metric])


def test_blimp(harness, model, tokenizer, tmp_path):
    about = {"linguistics_term": "agreement", "UID": "agreement_1"}
    items = [
        {"sentence_good": good, "sentence_bad": bad} | about
        for good, bad in zip(sentences(20, 1), sentences(20, 2), strict=True)
    ]
    found = run(
        harness, tmp_path / "x.jsonl", items, output_type="multiple_choice",
        doc_to_text="", doc_to_target=0, doc_to_choice="{{[sentence_good, sentence_bad]}}", metrics={"acc": "mean"},
    )  # fmt: skip
    metric = evaluate(Blimp(tmp_path / "x.jsonl"), model, tokenizer).metrics[0]
    assert (metric.task, metric.value) == ("blimp", pytest.approx(found["acc"]))
    assert 0 < metric.value < 1


def test_perplexity_of_texts_longer_than_the_block(harness, model, tokenizer, tmp_path):
    text = " ".join(sentences(12, 3, longest=40))
    found = run(
        harness, tmp_path / "x.jsonl", [{"text": text}], output_type="loglikelihood_rolling",
        doc_to_text="", doc_to_target="{{text}}", metrics={"bits_per_byte": "bits_per_byte"},
    )  # fmt: skip
    tokens, start = tokenizer.encode(text).tolist(), min(tokenizer.eos_ids)
    assert len(tokens) > 2 * 48
    whole = len(tokens) // 48 * 48  # the last window takes its context from the one before
    asked = [([start, *tokens][i : i + 1], tokens[i : i + 48]) for i in range(0, whole, 48)]
    asked.append((tokens[-49 : whole - len(tokens)], tokens[whole:]))
    bits = -sum(s.log_probs.sum() for s in score(model, asked)) / np.log(2) / len(text.encode())
    assert found["bits_per_byte"] == pytest.approx(bits)


def test_generation_stops_where_the_task_says(harness, model, tokenizer, tmp_path):
    [text] = harness._generate(["It is"], {"max_gen_toks": 20})
    expected = model.generate(tokenizer.encode("It is"), 20, temperature=0, stop_tokens=tokenizer.eos_ids)
    assert text == tokenizer.decode(list(expected))
    stop = text[5:7]
    items = [{"q": "It is", "a": text[: text.index(stop)]}, {"q": "It is", "a": "-"}, {"q": "a far", "a": "-"}]
    found = run(
        harness, tmp_path / "x.jsonl", items, output_type="generate_until", doc_to_text="{{q}}", doc_to_target="{{a}}",
        metrics={"exact_match": "mean"}, generation_kwargs={"until": [stop], "max_gen_toks": 20},
    )  # fmt: skip
    assert found["exact_match"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="48 tokens to generate leave no room for a context in 48"):
        harness._generate(["It is"], {"max_gen_toks": 48})


def test_chat_templates(harness, tokenizer, monkeypatch):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", template + "{% if add_generation_prompt %}you: {% endif %}")
    talk = [{"role": "user", "content": "Is it?"}, {"role": "you", "content": "It is"}]
    text = harness.apply_chat_template(talk)
    assert text == "user: Is it?<|endoftext|>you: It is<|endoftext|>you: "
    assert harness.tok_encode(text).count(min(tokenizer.eos_ids)) == 2
    assert harness.apply_chat_template(talk, add_generation_prompt=False) == "user: Is it?<|endoftext|>you: It is"
    assert harness.chat_template(True) == tokenizer.chat_template


def test_what_it_takes(model):
    from lm_eval.api.registry import get_model

    from tinygrad_llm.evaluation.harness import HarnessModel

    assert get_model("tinygrad-llm") is HarnessModel
    with pytest.raises(UserError, match="a model needs its tokenizer"):
        HarnessModel(model)
    with pytest.raises(UserError, match="a token that begins or ends texts, and this vocabulary has none"):
        HarnessModel(model, tokenizers.load("byte")).eot_token_id  # noqa: B018
