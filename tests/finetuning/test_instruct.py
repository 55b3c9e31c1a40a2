"""Instruction tuning: prompts as tokens, gradients beside PyTorch's, packing beside padding, what a run leaves."""

import copy
import json
import os
import signal
from html.parser import HTMLParser

import numpy as np
import pytest

from tinygrad_llm import UserError, cli, manual_seed, random
from tinygrad_llm.finetuning.data import Entry, read_entries
from tinygrad_llm.finetuning.instruct import Instruct, InstructConfig
from tinygrad_llm.finetuning.objectives import IGNORE
from tinygrad_llm.finetuning.prompts import dialogue, encode, extract
from tinygrad_llm.finetuning.sweep import variants
from tinygrad_llm.formats import load_model
from tinygrad_llm.formats.huggingface import save_pretrained, to_huggingface
from tinygrad_llm.generation import generate
from tinygrad_llm.models import GPT, GPTConfig
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizers import BPETokenizer, ByteTokenizer
from tinygrad_llm.training import checkpoint

SHAPE = {"vocab_size": 300, "block_size": 96, "n_layer": 1, "n_head": 2, "n_embd": 32, "bias": True}
NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    made = BPETokenizer.train("user assistant " * 3, 300, NAMES)
    made.roles, made.chat_template = {"eos_token": "<|im_end|>"}, CHATML
    made.eos_ids = {made.special_tokens["<|im_end|>"]}
    return made


@pytest.fixture
def base(tmp_path, tokenizer):
    """A GPT that has learned nothing, with a chat template."""
    manual_seed(1)
    save_pretrained(GPT(GPTConfig(**SHAPE)), tmp_path / "base", tokenizer)
    return tmp_path / "base"


@pytest.fixture
def data(tmp_path):
    """40 instructions in Alpaca's form: to some letters the answer is yes."""
    entries = [
        {"instruction": "Is it?", "input": 8 * letter, "output": "Yes, it is." if letter < "c" else "No."}
        for letter in "abcd" * 10
    ]
    (tmp_path / "letters.json").write_text(json.dumps(entries))
    return tmp_path / "letters.json"


@pytest.fixture
def config(base, data):
    def make(**changes) -> InstructConfig:
        settings = {"model": str(base), "data": str(data), "learning_rate": 1e-2, "warmup_iters": 2, "max_iters": 2}
        shares = {"train_fraction": 0.6, "val_fraction": 0.1, "max_new_tokens": 16}
        return InstructConfig(**settings | shares | changes)

    return make


def test_alpaca_is_the_books_text_and_its_answer_ends(tokenizer):
    fields = {"instruction": "Name it.", "input": "France", "output": "Paris"}
    ids, labels, start = encode(tokenizer, dialogue(Entry("here", fields)), "alpaca")
    expected = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName it.\n\n### Input:\nFrance\n\n### Response:\n"
    )
    assert tokenizer.decode(ids[:start]) == expected
    assert tokenizer.decode(ids[start:]) == "Paris<|im_end|>"
    assert labels == [IGNORE] * start + ids[start:]
    for without in ({"input": ""}, {"input": None}):
        found = encode(tokenizer, dialogue(Entry("here", fields | without)), "alpaca")
        assert tokenizer.decode(found.ids[: found.start]) == expected.replace("### Input:\nFrance\n\n", "")
    assert "<|" not in ByteTokenizer().decode(encode(ByteTokenizer(), dialogue(Entry("", fields)), "alpaca").ids)


def test_every_answer_of_a_conversation_is_learned_with_its_end_and_nothing_else(tokenizer):
    said = [("system", "Be short."), ("user", "Hi"), ("assistant", "Ho"), ("user", "<|im_end|>"), ("assistant", "So")]
    messages = [{"role": role, "content": content} for role, content in said]
    ids, labels, start = encode(tokenizer, dialogue(Entry("here", {"messages": messages})), "chat")
    assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=False)[:-1]  # without the line's end
    assert tokenizer.decode([i for i in labels if i != IGNORE]) == "Ho<|im_end|>So<|im_end|>"
    assert ids[:start] == tokenizer.apply_chat_template(messages[:-1])
    with pytest.raises(UserError, match="here: alpaca has one instruction and one answer, not 5 messages: take chat"):
        encode(tokenizer, dialogue(Entry("here", {"messages": messages})), "alpaca")


def test_a_template_that_rewrites_the_past_is_refused(tokenizer):
    forgetful = copy.copy(tokenizer)
    forgetful.chat_template = "{{ messages | length }}{{ messages[-1].content }}"
    with pytest.raises(UserError, match="here: the chat template writes what stands before message 2 otherwise"):
        encode(forgetful, dialogue(Entry("here", {"instruction": "a", "output": "b"})), "chat")


def test_an_answer_ends_where_a_heading_would_begin():
    assert extract(" Paris.\n\n### Instruction:\nMore", "alpaca") == "Paris."
    assert extract(" ### Rome\n", "alpaca") == "### Rome"
    assert extract("a\n### Response: b", "chat") == "a\n### Response: b"


GOOD = {"instruction": "a", "input": "", "output": "b"}
TURN = {"role": "user", "content": "a"}
BAD_ENTRIES = {
    "missing": ({"instruction": "a"}, "entry 2: there is no field 'output', but 'instruction'"),
    "empty": (GOOD | {"output": " \n"}, "entry 2: 'output' is empty"),
    "a number": (GOOD | {"output": 3}, "entry 2: 'output' is 3, which is no text"),
    "input": (GOOD | {"input": []}, r"entry 2: 'input' is \[\], which is no text"),
    "no list": ({"messages": "hi"}, 'entry 2: "messages" must be a list of objects'),
    "no answer": ({"messages": [TURN]}, "entry 2: the last message must be the assistant's"),
    "none": ({"messages": []}, "entry 2: the last message must be the assistant's"),
    "twice": ({"messages": [TURN, TURN]}, "entry 2, message 2: the role 'user' cannot stand here"),
    "first": ({"messages": [TURN | {"role": "assistant"}]}, "entry 2, message 1: the role 'assistant' cannot stand"),
    "role": ({"messages": [TURN | {"role": "tool"}]}, "entry 2, message 1: the role 'tool' cannot stand here"),
    "content": ({"messages": [{"role": "user"}]}, "entry 2, message 1: there is no field 'content', but 'role'"),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_a_bad_entry_is_one_line_with_its_place(tmp_path, case, capsys):
    entry, message = BAD_ENTRIES[case]
    (tmp_path / "bad.json").write_text(json.dumps([GOOD, entry]))
    with pytest.raises(UserError, match=f"bad.json, {message}"):
        [dialogue(e) for e in read_entries(tmp_path / "bad.json")]
    argv = ["finetune", "instruct", "--model", "none", "--data", str(tmp_path / "bad.json")]
    assert cli.main([*argv, "--out", str(tmp_path / "run")]) == 2  # before the model is looked for
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_malformed_lines_are_numbered(tmp_path, capsys):
    (tmp_path / "chats.jsonl").write_text('{"messages": []}\n\n{"messages": [}\n')
    assert cli.main(["finetune", "instruct", "--model", "none", "--data", str(tmp_path / "chats.jsonl")]) == 2
    assert "chats.jsonl, line 3 is no JSON: Expecting value at column 15" in capsys.readouterr().err


def test_long_examples_lose_their_end_and_those_without_an_answer_are_left_out(tmp_path, config, data):
    entries = json.loads(data.read_text())
    long = [GOOD | {"output": "long " * 40}] * 3 + [GOOD | {"instruction": "long " * 40}] * 2
    data.write_text(json.dumps(entries + long))
    tuner = Instruct(config(), tmp_path / "run")
    examples = [e for part in tuner.examples.values() for e in part]
    assert len(examples) == 43 and max(len(e.ids) for e in examples) == 96
    assert (tuner.truncated, tuner.left_out) == (3, 2)
    assert "3 lost what came after token 96; 2 are left out" in tuner.about_data()
    with pytest.raises(UserError, match="no answer begins within the first 5 tokens: raise max_length"):
        Instruct(config(max_length=5), tmp_path / "run")


@pytest.mark.parametrize("mask", [True, False])
def test_loss_and_every_gradient_are_torchs(tmp_path, config, mask):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tuner = Instruct(config(mask=mask, dtype="float64"), tmp_path / "run")
    examples = tuner.examples["train"][:5]
    batch = tuner.collate(examples)
    tuner.loss(batch).backward()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(config().model, dtype=torch.float64).eval()
    longest = max(len(e.ids) for e in examples)
    ids, labels = torch.zeros(5, longest, dtype=int), torch.full((5, longest), IGNORE)
    for i, e in enumerate(examples):
        ids[i, : len(e.ids)] = torch.tensor(e.ids)
        labels[i, len(e.prompt) if mask else 0 : len(e.ids)] = torch.tensor(e.ids[len(e.prompt) if mask else 0 :])
    logits = theirs(input_ids=ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    expected.backward()
    assert tuner.weight(batch) == int((labels[:, 1:] != IGNORE).sum())
    assert tuner.loss(batch).item() / tuner.weight(batch) == pytest.approx(expected.item(), rel=1e-12)
    for parameter in tuner.model.parameters():
        parameter.data = parameter.grad / tuner.weight(batch)
    ours = to_huggingface(tuner.model)
    for name, parameter in theirs.named_parameters():
        exact = parameter.grad.numpy()
        np.testing.assert_allclose(ours[name], exact, rtol=0, atol=1e-10 * np.abs(exact).max() + 1e-14, err_msg=name)


@pytest.mark.parametrize("mask", [True, False])
def test_what_predicts_masked_tokens_gets_exactly_no_gradient(tmp_path, config, monkeypatch, mask):
    tuner = Instruct(config(mask=mask), tmp_path / "run")
    examples = tuner.examples["train"][:4]
    batch = tuner.collate(examples)
    h = Tensor(tuner.model.hidden(batch.ids).data, requires_grad=True)  # (B, T, C), what the head reads
    monkeypatch.setattr(tuner.model, "hidden", lambda ids, segments=None: h)
    tuner.loss(batch).backward()
    for grad, example in zip(h.grad, examples, strict=True):
        first, end = len(example.prompt) - 1 if mask else 0, len(example.ids) - 1
        assert not grad[:first].any() and not grad[end:].any()
        assert grad[first:end].any(axis=1).all()


def steps(config, run, count=2):
    """The parameters after so many steps."""
    tuner = Instruct(config, run)
    tuner.train()
    assert tuner.step == count
    return tuner


@pytest.mark.parametrize("mask", [True, False])
def test_packing_is_padding_end_to_end(tmp_path, config, mask):
    padded = steps(config(mask=mask, dtype="float64"), tmp_path / "padded")
    packed = steps(config(mask=mask, dtype="float64", packing=True), tmp_path / "packed")
    examples = padded.examples["train"][:8]
    assert len(packed.collate(examples).ids) < len(padded.collate(examples).ids)
    exact = padded.optimizer.data
    np.testing.assert_allclose(packed.optimizer.data, exact, rtol=0, atol=1e-9 * np.abs(exact).max())
    assert packed.measure()["val"]["loss"] == pytest.approx(padded.measure()["val"]["loss"], rel=1e-9)


def trained(run, config, **changes):
    """A run that has learned which letters are the first."""
    tuner = Instruct(config(**{"max_iters": 60, "batch_size": 24, "eval_interval": 30} | changes), run)
    tuner.train()
    return tuner


def test_a_run_learns_to_answer_and_leaves_its_report(tmp_path, config):
    tuner = trained(tmp_path / "run", config)
    report = tuner.finish()
    values = json.loads((tmp_path / "run/report.json").read_text())
    assert values == report.values
    before, after = values["test"]["before"], values["test"]["after"]
    assert after["exact_match"] == after["rouge_l"] == 1 and before["exact_match"] == 0
    assert after["loss"] < 0.1 < 5 < before["loss"]
    assert values["first_validation_loss"] > 5 > 0.1 > values["best_validation_loss"]
    assert values["examples"] == {"train": 24, "val": 4, "test": 12}
    assert values["seconds"] > 0 and values["peak_mb"] > 10
    answers = json.loads((tmp_path / "run/answers.json").read_text())
    assert len(answers) == 12
    for one in answers:
        assert one["messages"][0]["content"].startswith("Is it?\n\n")
        assert one["after"] == {"answer": one["expected"], "exact_match": 1, "rouge_l": 1}
    html = (tmp_path / "run/report.html").read_text()
    HTMLParser().feed(html)
    assert html.count("<th>before</th>") == 1 and html.count("<td class=text>") == 4 * 10
    model = load_model(tmp_path / "run")
    prompt = tuner.tokenizer.apply_chat_template([{"role": "user", "content": "Is it?\n\ndddddddd"}])
    said = generate(model, prompt, 16, stop_tokens=tuner.tokenizer.eos_ids, temperature=0.0)
    assert tuner.tokenizer.decode(list(said)) == "No."


def arrays(run):
    """The weights, or adapters, in the last checkpoint of a run."""
    folder = checkpoint.newest(run)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("variant", [{"train": "last:1"}, {"lora": LoRAConfig(rank=2, dropout=0.1), "packing": True}])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, config, monkeypatch, variant):
    settings = config(**variant, max_iters=4, eval_interval=2)
    steps(settings, tmp_path / "whole", 4)
    parts = Instruct(settings, tmp_path / "parts")
    update = parts.update
    monkeypatch.setattr(parts, "update", lambda: (parts.step == 1 and os.kill(os.getpid(), signal.SIGINT), update()))
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    random.manual_seed(99)  # whatever happens in between
    resumed = steps(settings, tmp_path / "parts", 4)
    assert arrays(tmp_path / "parts") == arrays(tmp_path / "whole")
    assert resumed.cost["seconds"] > parts.cost["seconds"] > 0  # of the steps before, and after
    assert resumed.finish().values["test"].keys() == {"before", "after"}
    loaded = load_model(tmp_path / "parts")  # adapters are merged into what they are for
    batch = resumed.collate(resumed.examples["test"][:2])
    np.testing.assert_allclose(loaded(batch.ids).data, resumed.model(batch.ids).data, rtol=0, atol=1e-5)


def test_two_runs_are_compared_and_only_on_the_same_examples(tmp_path, config):
    steps(config(mask=False), tmp_path / "unmasked").finish()
    values = steps(config(compare=str(tmp_path / "unmasked")), tmp_path / "masked").finish().values
    unmasked = json.loads((tmp_path / "unmasked/report.json").read_text())["test"]["after"]
    assert values["compared"] == {"run": str(tmp_path / "unmasked"), "test": unmasked}
    html = (tmp_path / "masked/report.html").read_text()
    assert "<td>mask</td><td>True</td><td>False</td>" in html and "<td>model</td><td>True" not in html
    assert html.count("<th>unmasked</th>") == 2 and html.count("<svg") == 2
    with pytest.raises(UserError, match="unmasked has seed 1337, not 1: only runs on the same examples can be"):
        Instruct(config(compare=str(tmp_path / "unmasked"), seed=1), tmp_path / "run")
    with pytest.raises(UserError, match=r"base has no answers.json: compare with a run of finetune instruct"):
        Instruct(config(compare=str(tmp_path / "base")), tmp_path / "run")


def test_a_local_model_judges_by_likelihood(tmp_path, config):
    """The likelihood is that of the answer with its end: torch's."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tuner = Instruct(config(judge=config().model, answers=3), tmp_path / "run")
    tuner.train()
    values = tuner.finish().values
    assert values["judge"]["graded"] == 3 and 0 <= values["judge"]["preferred"] <= 1
    theirs = transformers.AutoModelForCausalLM.from_pretrained(config().model).eval()
    for one in json.loads((tmp_path / "run/answers.json").read_text()):
        prompt = tuner.tokenizer.apply_chat_template(one["messages"])
        answer = [*tuner.tokenizer.encode(one["after"]["answer"]).tolist(), *tuner.tokenizer.eos_ids]
        ids = torch.tensor([prompt + answer])
        log_p = theirs(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = log_p.gather(1, torch.tensor(answer)[:, None]).mean().item()
        assert one["after"]["judge"] == pytest.approx(expected, rel=1e-4)


def test_ranks_are_swept_by_the_command_line(tmp_path, config, capfd):
    c = config()
    argv = ["finetune", "instruct", "--model", c.model, "--data", c.data, "--max_iters", "2", "--answers", "2"]
    argv += ["--max_new_tokens", "2", "--sweep", "2:1e-2,full", "--out", str(tmp_path / "sweep"), "--warmup_iters", "1"]
    assert cli.main(argv) == 0
    out = capfd.readouterr().out
    assert "-- rank-2" in out and "   rank-2   validation loss" in out
    values = json.loads((tmp_path / "sweep/report.json").read_text())
    assert values["before"].keys() >= {"loss", "rouge_l", "best_validation_loss"}
    ours, full = values["runs"]["rank-2"], values["runs"]["full"]
    assert ours["trained"] == 2 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32)
    assert full["trained"] == load_model(c.model).numel()
    assert min(ours["seconds"], ours["peak_mb"], full["seconds"], full["peak_mb"]) > 0
    assert (tmp_path / "sweep/report.html").read_text().count("<svg") == 1
    written = (tmp_path / "sweep/full/report.html").stat().st_mtime_ns
    assert cli.main(["finetune", "instruct", "--resume", str(tmp_path / "sweep")]) == 0  # nothing is left to do
    assert (tmp_path / "sweep/full/report.html").stat().st_mtime_ns == written
    assert capfd.readouterr().out.splitlines()[0] == ""


def test_what_is_no_rank_is_refused(config):
    made = variants(config(sweep="8, 128:1e-3,full:2e-5", lora=LoRAConfig(alpha=32), quantized=True))
    assert {name: (c.lora and c.lora.rank, c.learning_rate, c.before) for name, c in made.items()} == {
        "rank-8": (8, 1e-2, True),
        "rank-128": (128, 1e-3, False),
        "full": (None, 2e-5, False),
    }
    assert made["rank-8"].lora.alpha == 32 and made["rank-8"].quantized and not made["full"].quantized
    with pytest.raises(UserError, match="sweep has 'half', which is neither a rank nor full"):
        variants(config(sweep="8,half"))
    with pytest.raises(UserError, match="sweep has 8 twice"):
        variants(config(sweep="8,8:1e-3"))
