"""`tinygrad-llm generate`: what it writes, and one line for every mistake."""

import pytest

from tinygrad_llm import manual_seed, tokenizers
from tinygrad_llm.cli import main
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.models import GPT, GPTConfig

TEXT = "abcdefghij klmnop.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights and a character tokenizer."""
    manual_seed(0)
    tokenizer = tokenizers.train("char", TEXT)
    folder = tmp_path_factory.mktemp("model")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=16)
    save_pretrained(GPT(config), folder, tokenizer)
    return str(folder)


def write(capsys, *arguments) -> str:
    assert main(["generate", *arguments]) == 0
    return capsys.readouterr().out


def test_a_seed_decides_what_is_written(capsys, folder):
    text = write(capsys, folder, "--prompt", "abc", "--max_new_tokens", "30", "--seed", "1")
    assert text == write(capsys, folder, "--prompt", "abc", "--max_new_tokens", "30", "--seed", "1")
    assert text != write(capsys, folder, "--prompt", "abc", "--max_new_tokens", "30", "--seed", "2")
    assert text.startswith("abc")
    assert len(text) == 3 + 30 + 1
    assert set(text) <= set(TEXT)


def test_without_a_seed_every_run_differs(capsys, folder):
    assert write(capsys, folder) != write(capsys, folder)


def test_temperature_zero_is_always_the_same(capsys, folder):
    settings = [folder, "--temperature", "0", "--max_new_tokens", "20"]
    assert write(capsys, *settings) == write(capsys, *settings)


def test_several_samples_differ(capsys, folder):
    out = write(capsys, folder, "--samples", "2", "--seed", "1", "--max_new_tokens", "20")
    first, second = out.split("--- 1 of 2 ---")[1].split("--- 2 of 2 ---")
    assert first.strip() != second.strip()


def test_it_stops_at_a_token(capsys, folder):
    free = write(capsys, folder, "--prompt", "abc", "--seed", "1", "--max_new_tokens", "200")
    assert "." in free[3:]
    stopped = write(capsys, folder, "--prompt", "abc", "--seed", "1", "--max_new_tokens", "200", "--stop", ".")
    assert stopped.rstrip("\n") == free[: free.index(".", 3)].rstrip("\n")


def test_a_long_prompt_may_be_cropped_and_says_so(capsys, folder, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("abcdefghij" * 2)
    assert main(["generate", folder, "--prompt_file", str(file), "--crop_prompt", "true", "--max_new_tokens", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("efghijabcdefghij")
    assert "left out the first 4 tokens" in captured.err


def test_bytes_wait_for_the_character_that_they_begin(capsys, tmp_path):
    from tinygrad_llm.cli.generate import stream

    tokenizer = tokenizers.load("byte")
    pieces = list(stream(iter("é€x".encode()), tokenizer))
    assert "".join(pieces) == "é€x"
    assert "�" not in "".join(pieces)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "abcdefghij" * 2], "the prompt has 20 tokens and the model's block 16"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "é"], "é"),
        (["--prompt", "a", "--prompt_file", "b"], "exclude each other"),
        (["--prompt_file", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--stop", "ab"], "stop must be one token, and 'ab' is 2: a, b"),
        (["--temperature", "-1"], "temperature must be 0"),
        (["--samples", "0"], "samples must be at least 1"),
        (["--temperture", "1"], "did you mean temperature?"),
        (["--top_k", "many"], "top_k"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, folder, arguments, message):
    assert main(["generate", folder, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_model(capsys, tmp_path):
    assert main(["generate", str(tmp_path / "nowhere")]) == 2
    assert "no model at" in capsys.readouterr().err
