"""A conversation: what the model reads, what it keeps, and what is dropped when the context is full."""

import pytest

from tinygrad_llm import UserError, manual_seed, tokenizers
from tinygrad_llm.generation import Sampling, generate
from tinygrad_llm.generation.conversation import Conversation
from tinygrad_llm.models import GPT, GPTConfig

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
GREEDY = Sampling(temperature=0)


@pytest.fixture
def tokenizer():
    tokenizer = tokenizers.ByteTokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def model() -> GPT:
    manual_seed(3)
    model = GPT(GPTConfig(vocab_size=256, block_size=64, n_layer=2, n_head=2, n_embd=16))
    for parameter in model.parameters():
        parameter.data *= 8
    model.wte.weight.data[128:] = model.wte.weight.data[:128]  # ASCII comes first among equals
    return model


def watch_reading(monkeypatch) -> list[int]:
    read, hidden = [], GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda self, ids, cache: read.append(ids.shape[1]) or hidden(self, ids, cache))
    return read


def test_the_model_reads_what_the_template_makes_of_the_turns(model, tokenizer):
    conversation = Conversation(model, tokenizer, system="S")
    conversation.ask("Hi", 5)
    answer = "".join(conversation.answer(5, GREEDY))
    ids = list(b"s:S\nu:Hi\na:")
    assert answer == tokenizer.decode(list(generate(model, ids, 5, temperature=0)))
    assert conversation.turns == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    assert conversation.messages[0] == {"role": "system", "content": "S"}
    assert conversation.finish_reason == "length"

    conversation.ask("Go on", 5)
    ids = f"s:S\nu:Hi\na:{answer}\nu:Go on\na:".encode()
    assert "".join(conversation.answer(5, GREEDY)) == tokenizer.decode(list(generate(model, ids, 5, temperature=0)))


def test_a_turn_is_read_once(model, tokenizer, monkeypatch):
    conversation = Conversation(model, tokenizer)
    conversation.ask("Hello there", 4)
    answer = "".join(conversation.answer(4, GREEDY))
    assert answer.isascii()  # so that it becomes the same tokens again
    read = watch_reading(monkeypatch)
    conversation.ask("x", 4)
    list(conversation.answer(4, GREEDY))
    assert read == [len(f"{answer[-1]}\nu:x\na:"), 1, 1, 1]  # the last token was written and never read


def test_the_oldest_turns_go_when_the_context_is_full_and_the_system_text_stays(model, tokenizer):
    conversation = Conversation(model, tokenizer, system="Be brief")
    for question in ("one", "two", "three", "four", "five"):
        dropped = conversation.ask(question, 12)
        list(conversation.answer(12, GREEDY))
        if dropped:
            break
    assert question == "three"
    assert [message["role"] for message in dropped] == ["user", "assistant"]
    assert dropped[0]["content"] == "one"
    assert [m["content"] for m in conversation.messages if m["role"] != "assistant"] == ["Be brief", "two", "three"]


def test_a_message_that_is_too_long_by_itself(model, tokenizer):
    conversation = Conversation(model, tokenizer)
    conversation.ask("one", 8)
    list(conversation.answer(8, GREEDY))
    before = list(conversation.turns)
    with pytest.raises(UserError, match="the message makes 75 tokens with all around it; the context has 64"):
        conversation.ask("x" * 70, 8)
    assert conversation.turns == before


def test_an_answer_ends_where_the_context_does(model, tokenizer):
    conversation = Conversation(model, tokenizer, context_size=32)
    conversation.ask("x" * 23, 1000)
    list(conversation.answer(1000, GREEDY))
    assert len(conversation.turns[1]["content"].encode()) == 32 - 28
    assert conversation.finish_reason == "length"


def test_a_reader_who_leaves_keeps_what_was_said(model, tokenizer):
    conversation = Conversation(model, tokenizer)
    conversation.ask("Hi", 10)
    pieces = conversation.answer(10, GREEDY)
    said = next(pieces) + next(pieces)
    pieces.close()
    assert conversation.turns[1] == {"role": "assistant", "content": said}
    assert conversation.finish_reason is None


def test_an_interrupt_before_the_first_token_takes_the_question_back(model, tokenizer, monkeypatch):
    conversation = Conversation(model, tokenizer)
    conversation.ask("Hi", 10)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GPT, "hidden", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        list(conversation.answer(10, GREEDY))
    assert conversation.turns == []


def test_the_end_of_a_text_ends_an_answer(model, tokenizer):
    conversation = Conversation(model, tokenizer)
    conversation.ask("Hi", 10)
    free = "".join(conversation.answer(10, GREEDY))
    tokenizer.eos_ids = {ord(free[3])}
    conversation.reset()
    conversation.ask("Hi", 10)
    assert "".join(conversation.answer(10, GREEDY)) == free[: free.index(free[3])]
    assert conversation.finish_reason == "stop"


def test_a_seed_gives_each_turn_numbers_of_its_own(model, tokenizer):
    def talk():
        conversation = Conversation(model, tokenizer)
        for _ in range(2):
            conversation.ask("Hi", 6)
            list(conversation.answer(6, Sampling(temperature=5.0, seed=1)))
        return conversation.turns

    turns = talk()
    assert turns == talk()
    assert turns[1] != turns[3]


def test_no_template(model):
    with pytest.raises(UserError, match="no chat template"):
        Conversation(model, tokenizers.ByteTokenizer())
