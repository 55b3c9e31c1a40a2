"""Checkpoints: damage is found and named, and the newest whole one is used."""

import json
import os
import shutil

import pytest

from tinygrad_llm import UserError
from tinygrad_llm.training import checkpoint

pytestmark = pytest.mark.usefixtures("without_pictures")

FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def run(tmp_path, config, train):
    train(config(max_iters=8), tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_holds_what_it_should_and_transformers_opens_it(run):
    transformers = pytest.importorskip("transformers")
    folder = run / "checkpoints/step-000008"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "trainer.json"])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_shortened_or_missing_file_is_named(run, name):
    path = run / "checkpoints/step-000008" / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"step-000008 is damaged: {name} is not as it was saved"):
            checkpoint.verify(path.parent)
    path.unlink()
    with pytest.raises(UserError, match=f"step-000008 is damaged: {name} is missing"):
        checkpoint.find_model(path.parent)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": 3}', b"\xff\xfe"])
def test_its_own_description_may_be_damaged(run, content):
    folder = run / "checkpoints/step-000008"
    (folder / "trainer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"trainer.json is missing or not whole"):
        checkpoint.verify(folder)


def test_the_newest_whole_one_is_taken_and_the_same_bits_come_again(run, config, train):
    folder = run / "checkpoints/step-000008"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    os.truncate(folder / "optimizer.safetensors", 100)
    told = []
    assert checkpoint.newest(run, told.append).name == "step-000004"
    assert len(told) == 1 and "optimizer.safetensors is not as it was saved" in told[0]
    train(config(max_iters=8), run)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_not(run, tmp_path):
    for folder in checkpoint.by_step(run):
        os.truncate(folder / "model.safetensors", 5)
    with pytest.raises(UserError, match=r"no other checkpoint of .* is whole"):
        checkpoint.newest(run)
    assert checkpoint.newest(tmp_path) is None
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        checkpoint.find_model(run)


def test_a_model_is_found_by_its_run_its_checkpoint_or_as_a_plain_folder(run, tmp_path):
    folder = run / "checkpoints/step-000008"
    assert checkpoint.find_model(run) == checkpoint.find_model(folder) == folder
    assert checkpoint.find_model(tmp_path / "model") == tmp_path / "model"


def test_more_than_a_million_steps_are_in_order(tmp_path):
    for step in (999_999, 1_000_000, 5):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    assert [path.name for path in checkpoint.by_step(tmp_path)] == ["step-000005", "step-999999", "step-1000000"]


def test_what_a_kill_left_is_cleared_away(run, config, train):
    (run / "checkpoints/.step-000012.99.tmp").mkdir()
    (run / "checkpoints/.step-000004.99.old").mkdir()
    train(config(max_iters=12), run)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert not [name for name in names if name.startswith(".")]
    assert json.loads((run / "checkpoints" / names[-1] / "trainer.json").read_text())["step"] == 12
