"""Fine-tuning on device="cuda", on the stand-in for CuPy: each task has the CPU's losses, and finds its best model."""

import json

import pytest

from tinygrad_llm import devices
from tinygrad_llm.cli.finetune import configure
from tinygrad_llm.training.metrics import read_metrics

SHAPE = {"vocab_size": 256, "block_size": 32, "n_layer": 1, "n_head": 2, "n_embd": 16}
PAIRS = [
    {"prompt": f"{a}{b}?", "output": f" {a}", "chosen": f" {a}, sir", "rejected": f" {b}!", "label": "ab"[i % 2]}
    for i, (a, b) in enumerate((a, b) for a in "abcde" for b in "ijkl")
]
TASKS = {
    "classify": ["--text", "chosen", "--pooling", "mean", "--balance", "weights"],
    "instruct": ["--style", "plain", "--max_new_tokens", "4", "--packing", "true"],
    "dpo": ["--style", "plain", "--max_new_tokens", "4", "--lora.rank", "2", "--loss", "ipo"],
    "reward": ["--style", "plain"],
    "ppo": ["--style", "plain", "--max_new_tokens", "4", "--reward", "letter:e", "--kl_coefficient", "0.3"],
    "grpo": ["--style", "plain", "--max_new_tokens", "4", "--reward", "letter:e", "--group_size", "2"],
}


@pytest.mark.filterwarnings("ignore:.*the kernel does not take")
@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_losses_of_the_cpu(tmp_path, base, task):
    data, lines, best = tmp_path / "pairs.jsonl", [], []
    rows = [{"instruction": pair["prompt"], **pair} for pair in PAIRS] if task == "instruct" else PAIRS
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["--model", str(base), "--data", str(data), "--max_iters", "2", "--eval_interval", "2", *TASKS[task]]
    settings += ["--train_fraction", "0.6", "--val_fraction", "0.2", "--learning_rate", "0.01", "--batch_size", "4"]
    for device in ("cpu", "cuda"):
        with devices.emulated():
            kind, config, folder = configure(task, [*settings, "--device", device, "--out", str(tmp_path / device)])
            tuner = kind(config, folder)
            tuner.train()
            best.append(tuner.finish().values["best_validation_loss"])
        assert tuner.model.device == device
        lines.append([line["loss"] for line in read_metrics(folder)])
    assert lines[1] == pytest.approx(lines[0], rel=1e-4, abs=1e-4)
    assert best[1] == pytest.approx(best[0], rel=1e-4, abs=1e-4)
