"""`tinygrad-llm evaluate`: its table, its JSON, what Ctrl-C leaves, and one line for every mistake."""

import json
import math
import signal

import pytest

from tinygrad_llm import manual_seed, tokenizers
from tinygrad_llm.cli import evaluate, main
from tinygrad_llm.evaluation import runner, score, scoring
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig

TEXT = "abcdefghij klmnop. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights and a character tokenizer."""
    manual_seed(0)
    tokenizer = tokenizers.train("char", TEXT)
    folder = tmp_path_factory.mktemp("model")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=16)
    save_pretrained(GPT(config), folder, tokenizer)
    return str(folder)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A text, and items for every task, where TINYGRAD_LLM_DATA says or as flags."""
    monkeypatch.setenv("TINYGRAD_LLM_DATA", str(tmp_path))
    (tmp_path / "text.txt").write_text(TEXT * 5)
    (tmp_path / "lambada").mkdir()
    (tmp_path / "lambada" / "lambada_test.jsonl").write_text('{"text": "abc def"}\n' * 40)
    pair = {"sentence_good": "abc", "sentence_bad": "cba", "linguistics_term": "order", "UID": "order_1"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    question = {"ctx": "abc", "endings": ["def", "gh"], "label": 1}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question) + "\n")
    return tmp_path


def test_every_task_as_a_table_and_as_json(capsys, folder, files):
    paths = ["--text", "text.txt", "--blimp", "pairs.jsonl", "--multiple_choice", "questions.jsonl"]
    paths = [str(files / x) if "." in x else x for x in paths]
    results = files / "out" / "results.json"
    assert main(["evaluate", folder, *evaluate.TASKS, *paths, "--limit", "3", "--json", str(results)]) == 0
    out = capsys.readouterr().out
    found = json.loads(results.read_text())
    assert found["partial"] is False
    assert (found["settings"]["model"], found["settings"]["limit"]) == (folder, 3)
    assert [(r["task"], r["done"], r["items"]) for r in found["results"]] == [
        ("perplexity", 3, 3), ("lambada", 3, 3), ("blimp", 1, 1), ("multiple-choice", 1, 1),
    ]  # fmt: skip
    for report in found["results"]:
        assert report["seconds"] > 0 < report["tokens"]
        for metric in report["metrics"]:
            assert metric["task"].split("/")[-1] in out
            assert runner.number(metric["value"]) in out
    loss, perplexity, _ = found["results"][0]["metrics"]
    assert perplexity["value"] == pytest.approx(math.exp(loss["value"]))
    assert loss["n"] == 16 + 8 + 8
    assert found["results"][2]["metrics"][0] == {
        "task": "blimp", "metric": "acc", "value": pytest.approx(0.5, abs=0.5), "stderr": None, "n": 1
    }  # fmt: skip
    assert "lambada: 3 of 3 items, " in out


def test_ctrl_c_leaves_what_is_done_and_says_so(capsys, folder, files, monkeypatch):
    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return score(*arguments)

    monkeypatch.setattr(runner, "score", interrupted)
    monkeypatch.setattr(scoring, "MOST_TOKENS", 100)
    results = files / "results.json"
    arguments = ["--text", str(files / "text.txt"), "--json", str(results)]
    assert main(["evaluate", folder, "lambada", "perplexity", *arguments]) == 130
    out, error = capsys.readouterr()
    assert "lambada: 15 of 40 items (partial), " in out
    assert error.splitlines()[-1] == "tinygrad-llm: interrupted: these results are partial"
    found = json.loads(results.read_text())
    assert found["partial"] is True
    assert [(r["task"], r["done"]) for r in found["results"]] == [("lambada", 15)]


def test_what_does_not_fit_the_block_is_counted(capsys, folder, files):
    (files / "long.jsonl").write_text(json.dumps({"text": TEXT + "abc"}) + '\n{"text": "a b"}\n')
    assert main(["evaluate", folder, "lambada", "--lambada", str(files / "long.jsonl")]) == 0
    assert "; 1 sequences were longer than 16 tokens and lost their beginning" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lambda"], "there is no task 'lambda': choose from perplexity, lambada, blimp, multiple-choice"),
        (["perplexity"], "perplexity needs a text: give it with --text FILE"),
        (["perplexity", "--text", "nowhere.txt"], "cannot read nowhere.txt"),
        (["perplexity", "--text", __file__], "is not in this vocabulary"),
        (["multiple-choice"], "multiple-choice needs questions"),
        (["lambada", "--lambada", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["lambada", "--limit", "0"], "limit must be at least 1, not 0"),
        (["lambada", "--batch_size", "0"], "batch_size must be at least 1, not 0"),
        (["lambada", "--max_length", "17"], "max_length must be from 1 to 16, the model's block, not 17"),
        (["blimp"], "BLiMP.zip"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, folder, files, arguments, message):
    assert main(["evaluate", folder, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_data(capsys, folder, monkeypatch):
    monkeypatch.delenv("TINYGRAD_LLM_DATA", raising=False)
    assert main(["evaluate", folder, "lambada"]) == 2
    assert "give --lambada FILE, or set TINYGRAD_LLM_DATA" in capsys.readouterr().err
