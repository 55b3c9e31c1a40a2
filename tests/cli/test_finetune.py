"""`tinygrad-llm finetune` and `classify` as a user meets them."""

import io
import json
from pathlib import Path

import pytest
import yaml

from tinygrad_llm import manual_seed
from tinygrad_llm.cli import main
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.finetuning.classify import ClassifyConfig
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.tokenizers import ByteTokenizer

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manual_seed(1)
    shape = {"vocab_size": 256, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 8}
    save_pretrained(GPT(GPTConfig(**shape)), "base", ByteTokenizer())
    Path("texts.tsv").write_text("good\tit is fine\nbad\tit is poor and long\n" * 10)


RUN = "finetune classify --model base --data texts.tsv --max_iters 4 --learning_rate 0.01 --out run".split()


def test_a_run_its_resumption_and_what_it_finds(capsys, monkeypatch):
    assert main(RUN) == 0
    out, err = capsys.readouterr()
    assert not err and "\x1b" not in out
    assert "14 train, 2 val, 4 test, of 2 classes: bad, good; 10 lost what came after token 16" in out
    assert "test accuracy, of 4 texts" in out and "report.html" in out
    assert main(["finetune", "classify", "--resume", "run", "--max_iters", "6"]) == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["max_iters"] == 6
    capsys.readouterr()
    assert main(["classify", "run", "it is fine", "it is poor and long", "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["text"] for line in lines] == ["it is fine", "it is poor and long"]
    for line in lines:
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert "1 texts were longer than the model's 16 tokens and lost their end" in err
    Path("in.txt").write_text("it is fine\n\nit is poor and long\n")
    assert main(["classify", "run", "--file", "in.txt", "--json"]) == 0
    assert capsys.readouterr().out == out
    monkeypatch.setattr("sys.stdin", io.StringIO("it is fine\nit is poor and long"))
    assert main(["classify", "run"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("%   it is fine")


def test_the_run_is_made_again_from_its_config(capsys):
    assert main([*RUN, "--lora.rank", "2"]) == 0
    assert main(["finetune", "classify", "--config", "run/config.yaml", "--out", "again"]) == 0
    for name in ("adapter_model.safetensors", "classifier.safetensors", "optimizer.safetensors"):
        run, again = (Path(run, "checkpoints/step-000004", name).read_bytes() for run in ("run", "again"))
        assert run == again
    assert main(["classify", "run/checkpoints/step-000004", "it is fine"]) == 0


MISTAKES = {
    "finetune clasify": "there is no task 'clasify': choose one of classify",
    "finetune classify --data texts.tsv": "there is no model: give --model",
    "finetune classify --model base": "there is no data: give --data",
    "finetune classify --model base --data nope.tsv": "there is no file nope.tsv",
    "finetune classify --model base --data texts.tsv --lora.rank 0": "rank of an adapter must be at least 1, not 0",
    "finetune classify --model base --data texts.tsv --lora.rank x": "lora.rank is 'x', but must be int",
    "finetune classify --model base --data texts.tsv --lora.rnk 1": "there is no setting 'lora.rnk'",
    "finetune classify --model base --data texts.tsv --out base": "base exists: go on with --resume base",
    "finetune classify --resume base": "base is no run folder: it has no config.yaml",
    "finetune classify --config nope.yaml": "cannot read nope.yaml",
    "classify base text": "base is no classifier: it has no score.weight",
    "classify nowhere text": "no classifier at nowhere",
    "classify base text --file texts.tsv": "TEXT and --file exclude each other",
    "classify base --file empty.txt": "there is no text to classify",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments):
    Path("empty.txt").touch()
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert MISTAKES[arguments] in err
    assert err.count("\n") == 1 and err.startswith("tinygrad-llm: ")
    assert not Path("runs").exists()


def test_the_recipe_is_of_settings_that_exist():
    config = Parser("finetune classify", "", ClassifyConfig).settings(["--config", str(RECIPES / "spam.yaml")])
    assert ClassifyConfig(**config).balance == "downsample"


def test_help_names_the_tasks_and_their_settings(capsys):
    assert main(["finetune"]) == main(["finetune", "--help"]) == 0
    assert "put texts into classes" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit:
        main(["finetune", "classify", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert exit.value.code == 0
    assert "--lora" in out and "downsample leaves out examples" in out
