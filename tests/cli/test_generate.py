"""`tinygrad-llm generate`: what it writes, and one line for every mistake."""

import json

import pytest

from tinygrad_llm import manual_seed, tokenizers
from tinygrad_llm.cli import generate, main
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


def write_json(capsys, *arguments) -> list[dict]:
    return [json.loads(line) for line in write(capsys, *arguments, "--json").splitlines()]


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


def test_several_samples_differ_and_do_not_depend_on_the_batch(capsys, folder):
    settings = [folder, "--samples", "3", "--seed", "1", "--max_new_tokens", "20"]
    out = write(capsys, *settings)
    assert out == write(capsys, *settings, "--batch_size", "2")
    texts = [row["text"] for row in write_json(capsys, *settings)]
    assert len(set(texts)) == 3
    assert all(f" of 3 ---\n\n{text}\n" in out for text in texts)  # the prompt is a line break


def test_it_stops_at_a_string_that_may_be_several_tokens(capsys, folder):
    settings = [folder, "--prompt", "abc", "--seed", "1", "--max_new_tokens", "200"]
    free = write(capsys, *settings)[3:-1]
    stop = free[100:103]
    assert write(capsys, *settings, "--stop", stop) == "abc" + free[: free.index(stop)] + "\n"
    first = min(free.index("."), free.index(stop))
    assert write(capsys, *settings, "--stop", stop, "--stop", ".") == "abc" + free[:first] + "\n"


def test_json_has_the_text_and_why_it_ended(capsys, folder):
    settings = [folder, "--prompt", "abc", "--seed", "1", "--max_new_tokens", "40"]
    (free,) = write_json(capsys, *settings)
    assert (free["prompt"], free["sample"], free["prompt_tokens"], free["finish_reason"]) == (1, 1, 3, "length")
    assert tokenizers.load(folder).decode(free["tokens"]) == free["text"] == write(capsys, *settings)[3:-1]
    assert len(free["tokens"]) == 40
    assert free["seconds_to_first_token"] > 0
    assert free["tokens_per_second"] > 0
    (stopped,) = write_json(capsys, *settings, "--stop", free["text"][20])
    assert stopped["finish_reason"] == "stop"
    (nothing,) = write_json(capsys, folder, "--max_new_tokens", "0")
    assert nothing["text"] == ""
    assert nothing["tokens_per_second"] is None


def test_a_file_of_prompts_is_written_a_batch_at_a_time(capsys, folder, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("abc\n\na\nklmnop\n")
    settings = ["--temperature", "0", "--max_new_tokens", "30"]
    texts = [row["text"] for row in write_json(capsys, folder, *settings, "--prompts_file", str(file))]
    alone = [write(capsys, folder, *settings, "--prompt", prompt) for prompt in ("abc", "a", "klmnop")]
    assert texts == [text[n:-1] for text, n in zip(alone, (3, 1, 6), strict=True)]


def test_special_tokens_come_from_a_prompt_only_when_asked(capsys, tmp_path):
    tokenizer = tokenizers.BPETokenizer.train("abcabcabc", 258)
    save_pretrained(GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 1, 8)), tmp_path, tokenizer)
    settings = [str(tmp_path), "--prompt", "a<|endoftext|>", "--max_new_tokens", "1"]
    assert write_json(capsys, *settings)[0]["prompt_tokens"] > 2
    assert write_json(capsys, *settings, "--allow_special", "true")[0]["prompt_tokens"] == 2


def test_what_begins_every_text_stands_before_the_prompt_and_is_not_shown(capsys, folder, monkeypatch):
    """A model that wants a token there, here "p", gets it once, and keeps it where the prompt is cropped."""
    tokenizer = tokenizers.load(folder)
    tokenizer.bos_id = int(tokenizer.encode("p")[0])
    settings = ["--temperature", "0", "--max_new_tokens", "9"]
    expected = write(capsys, folder, *settings, "--prompt", "pabc")
    cropped = write(capsys, folder, *settings, "--prompt", "p" + "k" * 15)
    monkeypatch.setattr(tokenizers, "load", lambda path: tokenizer)
    assert write(capsys, folder, *settings, "--prompt", "abc") == expected[1:]
    assert write(capsys, folder, *settings, "--prompt", "pabc") == expected[1:]
    assert write(capsys, folder, *settings, "--prompt", "k" * 30, "--crop_prompt", "true") == cropped[1:]


def test_speed_is_told_on_a_terminal(capsys, folder, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["generate", folder, "--max_new_tokens", "5"]) == 0
    assert "s, for a prompt of 1 tokens; then" in capsys.readouterr().err
    assert main(["generate", folder, "--max_new_tokens", "5", "--quiet"]) == 0
    assert not capsys.readouterr().err


def test_a_long_prompt_may_be_cropped_and_says_so(capsys, folder, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("abcdefghij" * 2)
    assert main(["generate", folder, "--prompt_file", str(file), "--crop_prompt", "true", "--max_new_tokens", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("efghijabcdefghij")
    assert "left out the first 4 tokens" in captured.err


def test_settings_may_come_from_a_file(capsys, folder, tmp_path):
    file = tmp_path / "settings.yaml"
    flags = ["--prompt", "abc", "--seed", "1", "--max_new_tokens", "30", "--top_k", "3", "--stop", "kl"]
    for stop, more in [("kl", []), ("[kl, m]", ["--stop", "m"])]:
        file.write_text(f"prompt: abc\nseed: 1\nmax_new_tokens: 30\ntop_k: 3\nstop: {stop}\n")
        assert write(capsys, folder, "--config", str(file)) == write(capsys, folder, *flags, *more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "abcdefghij" * 2], "the prompt has 20 tokens and the model's block 16"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "é"], "é"),
        (["--prompt", "a", "--prompt_file", "b"], "--prompt and --prompt_file exclude each other"),
        (["--prompt_file", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--prompts_file", "/dev/null"], "/dev/null holds no prompt"),
        (["--stop", ""], "a stop string is empty"),
        (["--temperature", "-1"], "temperature must be 0"),
        (["--min_p", "2"], "min_p must be from 0 to 1"),
        (["--samples", "0"], "samples must be at least 1"),
        (["--batch_size", "0"], "batch_size must be at least 1"),
        (["--temperture", "1"], "did you mean temperature?"),
        (["--top_k", "many"], "top_k is 'many', but must be int or null"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(capsys, folder, arguments, message):
    assert main(["generate", folder, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_model(capsys, tmp_path):
    assert main(["generate", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert error.count("\n") == 1


def test_the_speed_of_nothing():
    assert generate.speed([[]]) == "no tokens written"
