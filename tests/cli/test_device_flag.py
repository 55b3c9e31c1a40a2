"""`--device cuda` of every command that computes, on the emulator; and one line where there is no such device."""

import json

import numpy as np
import pytest

from tinygrad_llm import devices, manual_seed, tokenizers
from tinygrad_llm.cli import main
from tinygrad_llm.formats import save_model
from tinygrad_llm.kernels.cuda.emulator import standin
from tinygrad_llm.models import GPT, GPTConfig, Llama, LlamaConfig

TEXT = "abcdefghij klmnop.\n"
SHAPE = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}


@pytest.fixture(params=[GPT, Llama])
def folder(request, tmp_path):
    """A model with random weights and a character tokenizer."""
    manual_seed(0)
    tokenizer = tokenizers.train("char", TEXT)
    shape = {**SHAPE, "vocab_size": tokenizer.vocab_size}
    model = GPT(GPTConfig(**shape)) if request.param is GPT else Llama(LlamaConfig(**shape, intermediate_size=32))
    for parameter in model.parameters():
        parameter.data += np.random.default_rng(parameter.numel()).normal(0, 0.2, parameter.shape).astype("f")
    save_model(model, tmp_path / "model", tokenizer)
    return str(tmp_path / "model")


@pytest.mark.filterwarnings("ignore:.*the kernel does not take")
def test_a_model_writes_the_same_text(capsys, folder):
    texts = []
    for device in ("cpu", "cuda"):
        with devices.emulated():
            settings = ["--seed", "1", "--max_new_tokens", "20", "--samples", "2", "--device", device]
            assert main(["generate", folder, "--prompt", "abc", *settings]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert len(texts[0]) > 40


@pytest.mark.filterwarnings("ignore:.*the kernel does not take")
def test_a_model_is_measured_the_same(capsys, folder, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 5)
    values = []
    for device in ("cpu", "cuda"):
        file = tmp_path / f"{device}.json"
        with devices.emulated():
            arguments = ["perplexity", "--text", str(tmp_path / "text.txt"), "--limit", "3", "--json", str(file)]
            assert main(["evaluate", folder, *arguments, "--device", device]) == 0
        values.append([metric["value"] for metric in json.loads(file.read_text())["results"][0]["metrics"]])
    assert values[1] == pytest.approx(values[0], rel=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "tpu"], "no device 'tpu'"),
        (["--precision", "tf32"], "precision tf32 is a GPU's: leave it out, or give --device cuda"),
    ],
)
def test_what_there_is_not_is_one_line(capsys, arguments, message):
    assert main(["generate", "anything", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_too_little_memory_is_one_line(capsys, folder, monkeypatch):
    def full(*inputs, **options):
        raise MemoryError("Out of memory allocating 1,048,576 bytes (allocated so far: 0 bytes).")  # as CuPy does

    with devices.emulated():
        monkeypatch.setattr(standin, "asarray", full)
        assert main(["generate", folder, "--device", "cuda"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("tinygrad-llm: not enough memory: Out of memory allocating") and error.count("\n") == 1
