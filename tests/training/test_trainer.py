"""Runs: what they leave, gradients over micro-batches, resuming to the same bits, and what stops them."""

import dataclasses
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import tinygrad_llm.training.loop as loop_module
from tinygrad_llm import UserError, random
from tinygrad_llm.formats.huggingface import load_pretrained
from tinygrad_llm.training import Trainer, checkpoint
from tinygrad_llm.training.metrics import read_metrics


def bits(folder):
    """All that a checkpoint holds, to the bit."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_speed(run):
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_metrics(run)]


def stop_after(trainer, step, monkeypatch):
    """Press Ctrl-C while that step is computed."""
    update = trainer.update

    def pressed():
        if trainer.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        update()

    monkeypatch.setattr(trainer, "update", pressed)


def test_a_run_learns_and_leaves_its_files(tmp_path, config, train):
    run = tmp_path / "run"
    trainer = train(config(), run)
    lines = read_metrics(run)
    assert [line["step"] for line in lines if line["split"] == "batch"] == list(range(1, 13))
    assert [line["step"] for line in lines if line["split"] == "val"] == [0, 4, 8, 12]
    batch = [line for line in lines if line["split"] == "batch"]
    assert set(batch[0]) == {"step", "split", "loss", "learning_rate", "gradient_norm", "tokens_per_second"}
    assert lines[-1]["loss"] < lines[1]["loss"] - 0.3
    assert {path.name for path in (run / "samples").iterdir()} == {f"step-{i:06d}.txt" for i in (4, 8, 12)}
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert trainer.best["loss"] == min(line["loss"] for line in lines if line["split"] == "val" and line["step"])
    assert not [path for path in run.rglob(".*")]


def test_event_files_open_in_tensorboard(tmp_path, config, train):
    """Read by the format's definition, TFRecord, and tensorboardX's messages: what was logged is there."""
    from tensorboardX.proto import event_pb2

    train(config(), tmp_path)
    (path,) = tmp_path.glob("events.*")
    data, losses = path.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        losses.update((event.step, value.simple_value) for value in event.summary.value if value.tag == "loss/val")
        data = data[16 + length :]
    expected = {line["step"]: line["loss"] for line in read_metrics(tmp_path) if line["split"] == "val"}
    assert losses == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("float64", 1e-12)])
def test_micro_batches_give_the_whole_batchs_gradient_weighed_by_tokens(tmp_path, config, dtype, tolerance):
    whole = Trainer(config(batch_size=6, dtype=dtype), tmp_path / "a")
    parts = Trainer(config(batch_size=2, gradient_accumulation_steps=3, dtype=dtype), tmp_path / "b")
    ids, targets = next(whole.batches)
    whole.batches = iter([(ids, targets)])
    parts.batches = iter([(ids[part], targets[part]) for part in (slice(0, 1), slice(1, 3), slice(3, 6))])
    losses = []
    for trainer in (whole, parts):
        trainer.display = SimpleNamespace(update=lambda step, loss, val, speed: losses.append(loss))
        trainer.metrics = SimpleNamespace(log=lambda step, split, **values: None)
        trainer.update()
    scale = np.abs(whole.optimizer.grad).max()
    np.testing.assert_allclose(parts.optimizer.grad, whole.optimizer.grad, rtol=0, atol=tolerance * scale)
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)


VARIANTS = {
    "plain": {},
    "dropout and accumulation": {"model": {"dropout": 0.2}, "gradient_accumulation_steps": 2},
    "float64, numpy, biases, own head": {
        "model": {"bias": True, "tie_weights": False, "activation": "gelu_tanh"},
        "dtype": "float64",
        "kernels": "numpy",
    },
}


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("stop", [3, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, config, train, monkeypatch, variant, stop):
    settings = config(**VARIANTS[variant])
    train(settings, tmp_path / "whole")
    interrupted = Trainer(settings, tmp_path / "parts")
    stop_after(interrupted, stop, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    assert interrupted.step == stop
    assert checkpoint.newest(tmp_path / "parts").name == f"step-{stop:06d}"
    random.manual_seed(99)  # whatever happens in between
    train(settings, tmp_path / "parts")
    last = "checkpoints/step-000012"
    assert bits(tmp_path / "parts" / last) == bits(tmp_path / "whole" / last)
    assert without_speed(tmp_path / "parts") == without_speed(tmp_path / "whole")
    for path in (tmp_path / "whole" / "samples").iterdir():
        assert (tmp_path / "parts" / "samples" / path.name).read_bytes() == path.read_bytes()


def test_evaluating_and_sampling_do_not_change_the_training(tmp_path, config, train):
    model = {"dropout": 0.2}
    train(config(model), tmp_path / "often")
    train(config(model, eval_interval=12, eval_iters=1, sample_length=1), tmp_path / "once")
    weights = [(tmp_path / run / "checkpoints/step-000012/model.safetensors").read_bytes() for run in ("often", "once")]
    assert weights[0] == weights[1]


def test_a_longer_run_goes_on_where_a_finished_one_ended(tmp_path, config, train):
    train(config(max_iters=8, lr_decay_iters=12), tmp_path / "run")
    train(config(max_iters=12, lr_decay_iters=12), tmp_path / "run")
    train(config(max_iters=12), tmp_path / "whole")
    last = "checkpoints/step-000012/model.safetensors"
    assert (tmp_path / "run" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_the_best_and_the_last_two_checkpoints_are_kept(tmp_path, config, monkeypatch):
    trainer = Trainer(config(max_iters=12, eval_interval=2, checkpoint_interval=2, sample_length=1), tmp_path)
    losses = iter([3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])  # train and val, at 0, 2, …
    monkeypatch.setattr(trainer, "estimate", lambda batches: next(losses))
    trainer.train()
    assert [path.name for path in checkpoint.by_step(tmp_path)] == ["step-000004", "step-000010", "step-000012"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, config, monkeypatch, value):
    trainer = Trainer(config(), tmp_path)
    update = trainer.update

    def poisoned():
        if trainer.step == 6:
            trainer.optimizer.data[:] = value
        update()

    monkeypatch.setattr(trainer, "update", poisoned)
    with pytest.raises(FloatingPointError, match=r"became nan at step 7; .*are from before"):
        trainer.train()
    newest = checkpoint.newest(tmp_path)
    assert newest.name == "step-000004"
    assert np.isfinite(load_pretrained(newest).wte.weight.data).all()
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("eval_interval", [4, 100])
def test_no_checkpoint_is_written_of_weights_that_are_no_numbers(tmp_path, config, monkeypatch, eval_interval):
    trainer = Trainer(config(eval_interval=eval_interval), tmp_path)
    update = trainer.update

    def poisoned():
        update()
        if trainer.step == 8:  # a checkpoint is due, and the loss was still finite
            trainer.optimizer.data[:] = np.inf

    monkeypatch.setattr(trainer, "update", poisoned)
    with pytest.raises(FloatingPointError, match=r"at step 8; "):
        trainer.train()
    assert [path.name for path in checkpoint.by_step(tmp_path)] == ["step-000004"]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, config, monkeypatch):
    trainer = Trainer(config(), tmp_path)
    save = checkpoint.save_arrays

    def full(arrays, path):
        if trainer.step == 8:
            path.write_bytes(b"the first half of it")
            raise OSError(28, "No space left on device")
        save(arrays, path)

    monkeypatch.setattr(checkpoint, "save_arrays", full)
    with pytest.raises(UserError, match=r"cannot write .*step-000008: No space left on device; nothing"):
        trainer.train()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000004"]
    checkpoint.verify(tmp_path / "checkpoints/step-000004")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_metrics_on_a_full_disk(tmp_path, config, monkeypatch):
    trainer = Trainer(config(), tmp_path)
    monkeypatch.setattr("tinygrad_llm.training.metrics.write_atomic", lambda path, data: path.symlink_to("/dev/full"))
    monkeypatch.setattr(loop_module, "plot", lambda run, unit: None)  # /dev/full has no end to read to
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        trainer.train()


def test_changed_text_and_changed_shape_are_noticed(tmp_path, config, train, text):
    train(config(max_iters=4), tmp_path / "run")
    with pytest.raises(UserError, match="is another than the settings describe"):
        Trainer(config({"n_layer": 2}), tmp_path / "run")
    text.write_text(text.read_text().replace("60 bottles", "61 bottles"))
    with pytest.raises(UserError, match="has changed since"):
        Trainer(config(), tmp_path / "run")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "batch_size must be more than 0, not 0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"learning_rate": float("nan")}, "learning_rate must be more than 0, not nan"),
        ({"beta2": 1.0}, "beta2 must be from 0 to below 1"),
        ({"schedule": "cosin"}, "schedule must be one of"),
        ({"dtype": "float16"}, "dtype must be float32 or float64"),
        ({"min_lr": 1.0}, "min_lr 1.0 is above learning_rate"),
        ({"model": {"n_head": 3}}, "n_embd 16 is not divisible by n_head 3"),
        ({"model": {"block_size": 4000}}, "give more text or a smaller block_size"),
        ({"model": {"vocab_size": 7}}, "vocab_size 7 is less than the tokenizer's"),
        ({"threads": 0}, "threads must be from 1 to"),
        ({"kernels": "cobol"}, "no kernel set 'cobol'"),
        ({"tokenizer": "gpt2", "tokenizer_vocab_size": 9}, "leave tokenizer_vocab_size out"),
        ({"data": "no/such/file"}, "no file, folder or known text"),
    ],
)
def test_settings_that_do_not_work_are_one_line_and_leave_nothing(tmp_path, config, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        Trainer(config(**changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_config_is_resolved_and_written(tmp_path, config, train):
    trainer = train(config(max_iters=1), tmp_path)
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    expected = {name: value for name, value in dataclasses.asdict(trainer.config).items() if value is not None}
    assert written == expected
    assert written["model"]["vocab_size"] == trainer.tokenizer.vocab_size
    assert written["lr_decay_iters"] == 1
