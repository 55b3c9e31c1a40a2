"""`tinygrad-llm chat`: messages and commands from a pipe, with a tiny model; and one real question to a real one."""

import io
import json
import signal

import pytest

from tinygrad_llm import manual_seed, tokenizers
from tinygrad_llm.cli import main
from tinygrad_llm.formats.huggingface import save_pretrained
from tinygrad_llm.generation.text import Text
from tinygrad_llm.models import GPT, GPTConfig

TEMPLATE = "{% for m in messages %}{{ m.role[0] + m.content + '\n' }}{% endfor %}a"
GREEDY = ["--temperature", "0", "--max_new_tokens", "6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights, a tokenizer of characters and a chat template."""
    manual_seed(2)
    tokenizer = tokenizers.train("char", "abcdefghijklmnopqrstuvwxyz.\n")
    tokenizer.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("model")
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, block_size=48, n_layer=1, n_head=2, n_embd=16))
    for parameter in model.parameters():
        parameter.data *= 8
    save_pretrained(model, folder, tokenizer)
    return str(folder)


@pytest.fixture
def talk(folder, capsys, monkeypatch):
    """What is printed for lines of input: standard output, and standard error."""

    def talk(*lines, settings=GREEDY, status=0) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert main(["chat", folder, *settings]) == status
        captured = capsys.readouterr()
        return captured.out, captured.err

    return talk


def test_every_line_is_answered(talk):
    """Six characters and a line break each, as that is the most; the second answer knows of the first question."""
    out, err = talk("one", "", "two")
    assert len(out) == 2 * 7
    assert out != talk("one")[0] + talk("two")[0]
    assert err.count("the answer is cut here") == 2


def test_one_message(talk, folder, capsys):
    assert main(["chat", folder, *GREEDY, "--message", "one"]) == 0
    assert capsys.readouterr().out == talk("one")[0]


def test_reset_and_system(talk):
    one = talk("one")[0]
    assert talk("one", "/reset", "one")[0] == one + one
    system = talk("one", settings=[*GREEDY, "--system", "be.good."])[0]
    assert system != one
    assert talk("/system be.good.", "one")[0] == system
    assert talk("/system be.good.", "/system", "one")[0] == one


def test_settings_are_shown_and_changed(talk):
    out, _ = talk("/set temperature 0.25", "/set top_k 5", "/set top_p none", "/set max_new_tokens 3", "/settings")
    assert "temperature 0.25  top_k 5  top_p none" in out
    assert "max_new_tokens 3" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sing", "there is no command /sing; /help lists them"),
        ("/set", "there is no setting ''"),
        ("/set colour 1", "there is no setting 'colour': choose one of max_new_tokens, temperature"),
        ("/set temperature hot", "temperature must be a number, not 'hot'"),
        ("/set temperature none", "temperature must be a number"),
        ("/set top_k 1.5", "top_k must be a whole number or none"),
        ("/set top_p 3", "top_p must be above 0"),
        ("/set max_new_tokens 0", "max_new_tokens must be at least 1"),
        ("/save", "give the name of a file"),
        ("/save /dev/null/x", "cannot write /dev/null/x"),
        ("x" * 60, "the message makes 63 tokens"),
        ("É", "É"),
    ],
)
def test_a_mistake_costs_a_line_and_not_the_conversation(talk, line, message):
    out, err = talk(line, "one")
    mistake, *_ = err.splitlines()
    assert mistake.startswith("tinygrad-llm: ")
    assert message in mistake
    assert out == talk("one")[0]


def test_it_says_which_turns_it_drops(talk):
    _, err = talk("oneoneone", "twotwotwo", "threethree", "fourfour")
    assert "left out the oldest 1 of the turns, from 'oneoneone' on" in err


def test_a_conversation_is_saved(talk, tmp_path):
    file = tmp_path / "talk.json"
    out, _ = talk("/system be.good.", "one", f"/save {file}", "/quit", "never said")
    saved = json.loads(file.read_text())
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    assert saved["messages"][1]["content"] == "one"
    assert out.startswith(saved["messages"][2]["content"])
    assert saved["settings"]["temperature"] == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(talk, monkeypatch):
    """The signal comes as the third token does."""
    one, two = talk("one")[0], talk("two")[0]
    add, tokens = Text.add, []

    def interrupted(self, token):
        tokens.append(token)
        if len(tokens) == 3:
            signal.raise_signal(signal.SIGINT)
        return add(self, token)

    monkeypatch.setattr(Text, "add", interrupted)
    out, _ = talk("one", "/reset", "two")
    assert out == f"{one[:3]}\n{two}"


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, which it does not in what a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_while_the_model_reads(talk, monkeypatch, interruptible):
    hidden, calls = GPT.hidden, []

    def interrupted(self, ids, cache):
        calls.append(ids)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return hidden(self, ids, cache)

    two = talk("two")[0]
    monkeypatch.setattr(GPT, "hidden", interrupted)
    assert talk("one", "two")[0] == f"\n{two}"


def test_a_terminal_is_shown_the_settings_and_a_prompt(folder, capsys, monkeypatch):
    lines, prompts = iter(["/help", "/quit"]), []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: prompts.append(prompt) or next(lines))
    assert main(["chat", folder, "--system", "be.good.", "--seed", "7"]) == 0
    out = capsys.readouterr().out
    assert "1 layers, 2 heads, 16 wide; a context of 48 tokens" in out
    assert "temperature 0.7  top_k none  top_p 0.9" in out
    assert "seed 7" in out
    assert "system be.good." in out
    assert "/reset           begin anew" in out
    assert prompts == ["\n> ", "\n> "]


def test_a_model_without_a_template_goes_to_generate(capsys, tmp_path):
    tokenizer = tokenizers.train("char", "abc")
    save_pretrained(GPT(GPTConfig(tokenizer.vocab_size, 8, 1, 1, 8)), tmp_path, tokenizer)
    assert main(["chat", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "has no chat template" in err
    assert f"tinygrad-llm generate {tmp_path} --prompt" in err
    assert err.count("\n") == 1


def test_bad_settings(talk):
    assert "max_new_tokens must be at least 1" in talk(settings=["--max_new_tokens", "0"], status=2)[1]
    assert "context_size must be at least 1" in talk(settings=["--context_size", "0"], status=2)[1]


def test_a_real_model_knows_the_capital_of_france(capsys, smollm2):
    question = "What is the capital of France?"
    assert main(["chat", str(smollm2), "--temperature", "0", "--message", question]) == 0
    assert "Paris" in capsys.readouterr().out
