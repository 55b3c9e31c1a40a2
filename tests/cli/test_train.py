"""`tinygrad-llm train` as a user meets it: settings, messages, exit statuses, signals."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tinygrad_llm import kernels
from tinygrad_llm.cli import main
from tinygrad_llm.cli.train import parse
from tinygrad_llm.models import PRESETS
from tinygrad_llm.training import checkpoint
from tinygrad_llm.training.metrics import read_metrics

TEXT = "".join(f"{i} bottles of milk on the wall, {i} bottles of milk;\n" for i in range(60, 0, -1))
SMALL = """--data milk.txt --preset tiny --model.n_layer 1 --model.n_embd 16 --model.block_size 8 --model.dropout 0.1
    --batch_size 2 --gradient_accumulation_steps 2 --warmup_iters 5 --eval_iters 2 --sample_length 8""".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYGRAD_LLM_CACHE", str(tmp_path / "cache"))
    Path("milk.txt").write_text(TEXT)


def start(*arguments, code="import sys; from tinygrad_llm.cli import main; sys.exit(main())", **options):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def wait_for_step(run, step, process):
    while process.poll() is None and not any(line["step"] >= step for line in read_metrics(Path(run))):
        time.sleep(0.002)


def test_train_in_plain_lines_and_again_from_its_config(capsys):
    assert main(["train", *SMALL, "--max_iters", "10", "--eval_interval", "5"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out and not err
    assert "step     10   training loss" in out
    assert "tinygrad-llm generate runs/milk-tiny" in out
    assert main(["train", "--config", "runs/milk-tiny/config.yaml"]) == 0
    last = "checkpoints/step-000010/model.safetensors"
    assert Path("runs/milk-tiny", last).read_bytes() == Path("runs/milk-tiny-2", last).read_bytes()
    assert main(["train", "--resume", "runs/milk-tiny", "--max_iters", "12"]) == 0
    assert checkpoint.newest(Path("runs/milk-tiny")).name == "step-000012"


def test_flags_overrule_the_file_which_overrules_the_preset():
    Path("my.yaml").write_text("preset: nanogpt-gpu\nmodel: {n_layer: 3}\nbatch_size: 5\nseed: 7\n")
    config, folder, _ = parse(["--config", "my.yaml", "--model.dropout", "0.5", "--seed", "8", "--out", "there"])
    expected = PRESETS["nanogpt-gpu"] | {"n_layer": 3, "dropout": 0.5}
    assert {name: getattr(config.model, name) for name in expected} == expected
    assert (config.batch_size, config.seed, folder) == (5, 8, Path("there"))
    config, folder, _ = parse([])
    assert (config.data, config.preset, folder) == ("python-docs", "nanogpt-cpu", Path("runs/python-docs-nanogpt-cpu"))


MISTAKES = {
    "--data nope.txt": "no file, folder or known text is called 'nope.txt'",
    "--data empty.txt": "empty.txt is empty",
    "--data short.txt": "give more text or a smaller block_size",
    "--model.n_head 3": "n_embd 128 is not divisible by n_head 3",
    "--model.n_layer -1": "n_layer must be at least 1, not -1",
    "--batch_size -3": "batch_size must be more than 0, not -3",
    "--batch_size many": "batch_size is 'many', but must be int",
    "--batchsize 3": "there is no setting '--batchsize'; did you mean batch_size?",
    "--model.layers 3": "there is no setting '--model.layers'",
    "milk.txt": "there is no setting 'milk.txt'; see tinygrad-llm train --help",
    "--schedule cosin": "schedule is 'cosin', but must be one of ['constant', 'linear', 'cosine']",
    "--preset big": "there is no preset 'big': choose one of gpt2",
    "--preset": "--preset: expected one argument",
    "--config nope.yaml": "cannot read nope.yaml: No such file",
    "--config unknown.yaml": "there is no setting 'max_iter'; did you mean max_iters?",
    "--config broken.yaml": "broken.yaml is not YAML",
    "--config list.yaml": "list.yaml holds no settings",
    "--config model.yaml --preset gpt2": "exclude each other",
    "--resume nope": "nope is no run folder: it has no config.yaml",
    "--out .": ". exists: go on with --resume .",
    "--tokenizer bpe": "bpe needs a vocab_size",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments):
    Path("empty.txt").touch()
    Path("short.txt").write_text("short")
    Path("unknown.yaml").write_text("max_iter: 3")
    Path("broken.yaml").write_text("a: [")
    Path("list.yaml").write_text("- 1")
    Path("model.yaml").write_text("preset: tiny\nmodel: {n_layer: 1}")
    assert main(["train", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert MISTAKES[arguments] in err
    assert err.count("\n") == 1 and err.startswith("tinygrad-llm: ")
    assert not Path("runs").exists()


def test_damaged_checkpoints_are_said_and_passed_over(capsys):
    arguments = [*SMALL, "--eval_interval", "5", "--max_iters", "10", "--checkpoint_interval", "5", "--out", "run"]
    assert main(["train", *arguments]) == 0
    os.truncate("run/checkpoints/step-000010/model.safetensors", 1000)
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    assert "step-000010 is damaged: model.safetensors is not as it was saved" in capsys.readouterr().out
    for folder in checkpoint.by_step(Path("run")):
        os.truncate(folder / "model.safetensors", 1000)
    assert main(["train", "--resume", "run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_nan_is_one_line_and_status_1(capsys):
    rate = ["--learning_rate", "1e30", "--max_iters", "50", "--grad_clip", "0", "--schedule", "constant"]
    assert main(["train", *SMALL, *rate]) == 1
    err = capsys.readouterr().err
    assert "became" in err and "at step" in err and err.count("\n") == 1


def test_help_and_unknown_commands(capsys):
    assert main(["--help"]) == main([]) == 0
    assert "tinygrad-llm train --resume" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "there is no command 'trian'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit:
        main(["train", "--help"])
    assert exit.value.code == 0
    assert "probability that a number is dropped" in " ".join(capsys.readouterr().out.split())


def test_ctrl_c_saves_says_how_to_go_on_and_the_bits_are_the_same():
    arguments = [*SMALL, "--max_iters", "400", "--eval_interval", "100"]
    process = start(*arguments, "--out", "run")
    wait_for_step("run", 20, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "is saved. Go on with\n  tinygrad-llm train --resume run\n" in err
    assert checkpoint.newest(Path("run")).name not in ("step-000000", "step-000400")
    assert main(["train", "--resume", "run"]) == main(["train", *arguments, "--out", "whole"]) == 0
    assert_same_end("run", "whole", 400)


def test_it_trains_with_a_kernel_of_ones_own(capsys):
    Path("my").mkdir()
    Path("my/layernorm.py").write_text(
        "from tinygrad_llm.ops import layernorm\n"
        "def layernorm_forward(x, weight, bias, eps=1e-5):\n"
        "    print('my layernorm')\n"
        "    return layernorm.forward(x, weight, bias, eps)\n"
        "layernorm_backward = layernorm.backward\n"
    )
    with kernels.use("numpy"):  # which puts back what was in use
        assert main(["train", *SMALL, "--max_iters", "2", "--kernels", "my/layernorm.py", "--out", "run"]) == 0
    assert "my layernorm" in capsys.readouterr().out
    assert yaml.safe_load(Path("run/config.yaml").read_text())["kernels"] == "my/layernorm.py,numpy"


def test_no_torch_is_needed():
    code = "import sys; sys.modules['torch'] = None; from tinygrad_llm.cli import main; sys.exit(main())"
    process = start(*SMALL, "--max_iters", "4", "--out", "run", code=code)
    assert process.communicate(timeout=60) and process.returncode == 0
    code = "import sys; from tinygrad_llm.cli import main; main(); sys.exit('torch' in sys.modules)"
    process = start("--resume", "run", "--max_iters", "6", code=code)
    assert process.communicate(timeout=60) and process.returncode == 0


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing_but_time(kills):
    """SIGKILL, each time some way on: a whole checkpoint is found, and the end is that of an undisturbed run."""
    draw, steps = random.Random(kills), 100 * kills
    arguments = [*SMALL, "--max_iters", str(steps), "--eval_interval", "25", "--checkpoint_interval", "10"]
    assert main(["train", *arguments, "--out", "whole"]) == 0
    command = [*arguments, "--out", "run"]
    for _ in range(kills):
        process = start(*command)
        folder = Path("run")
        done = max((line["step"] for line in read_metrics(folder)), default=-1) if folder.exists() else -1
        wait_for_step("run", done + 1, process)
        time.sleep(draw.uniform(0, 0.25))
        process.kill()
        process.communicate()
        if folder.joinpath("config.yaml").exists():
            checkpoint.newest(folder)  # raises where one is damaged and no other is whole
            command = ["--resume", "run"]
    assert main(["train", "--resume", "run"]) == 0
    assert_same_end("run", "whole", steps)


def assert_same_end(run, whole, steps):
    """The same files in the last checkpoint and the same metrics but for the speed, each step once."""
    ends = [Path(folder, "checkpoints", f"step-{steps:06d}") for folder in (run, whole)]
    assert {p.name: p.read_bytes() for p in ends[0].iterdir()} == {p.name: p.read_bytes() for p in ends[1].iterdir()}
    lines = [[{**line, "tokens_per_second": 0} for line in read_metrics(Path(folder))] for folder in (run, whole)]
    assert lines[0] == lines[1]
    configs = [yaml.safe_load(Path(folder, "config.yaml").read_text()) for folder in (run, whole)]
    assert configs[0] == configs[1]
