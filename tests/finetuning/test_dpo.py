"""DPO: pairs out of files, gradients beside PyTorch's, the reference that is kept, resuming, what a run leaves."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import transformers

from tinygrad_llm import UserError, cli, random
from tinygrad_llm.finetuning import dpo
from tinygrad_llm.finetuning.data import Entry
from tinygrad_llm.finetuning.dpo import DPO, REFERENCE, DPOConfig
from tinygrad_llm.finetuning.objectives import IGNORE
from tinygrad_llm.finetuning.preferences import encode_pairs, read_pair
from tinygrad_llm.formats.huggingface import to_huggingface
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.tokenizers import ByteTokenizer
from tinygrad_llm.training import checkpoint
from tinygrad_llm.training.metrics import read_metrics

SHAPE = {"vocab_size": 256, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}


@pytest.fixture
def data(tmp_path):
    """60 pairs: polite answers are preferred, which are longer."""
    pairs = [
        {"prompt": f"{a}{b}?", "chosen": f" {a}, sir", "rejected": f" {b}!"} for a in "abcdefgh" for b in "ijklmnop"
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:60]))
    return tmp_path / "pairs.jsonl"


@pytest.fixture
def config(base, data):
    def make(**changes) -> DPOConfig:
        settings = {"model": str(base), "data": str(data), "style": "plain", "learning_rate": 1e-2, "warmup_iters": 2}
        shares = {"train_fraction": 0.7, "val_fraction": 0.15, "max_iters": 8, "eval_interval": 4}
        return DPOConfig(**settings | shares | {"max_new_tokens": 8, "answers": 2} | changes)

    return make


PROMPT = [{"role": "user", "content": "Hi"}]
ANSWERS = {"chosen": "Good day.", "rejected": "What?"}
FORMS = {
    "instruction": {"instruction": "Hi", "input": "", "output": "Yes"} | ANSWERS,
    "prompt": {"prompt": "Hi"} | ANSWERS,
    "messages": {"messages": PROMPT} | ANSWERS,
    "prompt of messages": {"prompt": PROMPT} | ANSWERS,
    "conversations": {name: [*PROMPT, {"role": "assistant", "content": text}] for name, text in ANSWERS.items()},
    "trl's": {"prompt": PROMPT} | {k: [{"role": "assistant", "content": text}] for k, text in ANSWERS.items()},
    "a prompt and messages": {"prompt": "Hi"}
    | {k: [{"role": "assistant", "content": text}] for k, text in ANSWERS.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_in_any_form_is_the_same(form):
    chosen, rejected = read_pair(Entry("here", FORMS[form]))
    assert chosen.turns[:-1] == rejected.turns[:-1] == PROMPT
    assert (chosen.answer, rejected.answer) == ("Good day.", "What?")
    pair = encode_pairs(ByteTokenizer(), [Entry("here", FORMS[form])], "plain", 99).pairs[0]
    assert bytes(pair.chosen.ids) == b"HiGood day." and bytes(pair.rejected.ids) == b"HiWhat?"
    assert pair.prompt == list(b"Hi") and pair.chosen.labels == [IGNORE] * 2 + list(b"Good day.")


BAD_PAIRS = {
    "no answer": ({"prompt": "x", "chosen": "y"}, "there is no field 'rejected', but 'prompt', 'chosen'"),
    "no prompt": ({"chosen": "y", "rejected": "n"}, "there is no field 'prompt'"),
    "an empty answer": ({"prompt": "x", "chosen": " ", "rejected": "n"}, "'chosen' is empty"),
    "a number": ({"prompt": "x", "chosen": "y", "rejected": 3}, "'rejected' is 3, which is no text"),
    "no conversation": ({"prompt": PROMPT * 2, "chosen": "y", "rejected": "n"}, "message 2: the role 'user' cannot"),
    "other prompts": (FORMS["conversations"] | {"chosen": [{"role": "user", "content": "So?"},
        {"role": "assistant", "content": "y"}]}, "not answers to the same prompt"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs_are_one_line_and_leave_nothing(tmp_path, config, data, case):
    entry, message = BAD_PAIRS[case]
    data.write_text(data.read_text() + json.dumps(entry) + "\n")
    with pytest.raises(UserError, match=f"pairs.jsonl, line 61.*{re.escape(message)}") as caught:
        DPO(config(), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_malformed_line_is_named(tmp_path, config, data):
    data.write_text(data.read_text() + '{"prompt": \n')
    with pytest.raises(UserError, match=r"line 61 is no JSON: Expecting value at column 12"):
        DPO(config(), tmp_path / "run")


def test_pairs_that_teach_nothing_are_left_out_and_counted(tmp_path, config, data):
    more = [("p" * 30, "a", "b"), ("same?", "a", "a"), ("p?", "y" * 40, "n")]
    lines = [json.dumps(dict(zip(("prompt", "chosen", "rejected"), entry, strict=True))) for entry in more]
    data.write_text(data.read_text() + "\n".join(lines))
    tuner = DPO(config(), tmp_path / "run")
    assert tuner.found[1:] == (1, 1, 1) and len(tuner.found.pairs) == 61
    assert "1 are left out, whose answers are the same" in tuner.about_data()
    assert max(len(pair.ids) for pair in tuner.found.pairs) == 24
    data.write_text(lines[1])
    with pytest.raises(UserError, match="no pair of different answers begins"):
        DPO(config(), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta must be more than 0"),
        ({"loss": "kto"}, "must be sigmoid, ipo or hinge, not 'kto'"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "sigmoid's alone"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"answers": -1}, "answers must not be negative"),
        ({"lora": LoRAConfig(dropout=0.1)}, "lora.dropout must be 0, not 0.1"),
    ],
)
def test_settings_that_do_not_work_are_one_line(config, changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


def torch_log_probabilities(model, ids, labels):
    """(2 B,), by transformers' logits and torch's autograd."""
    log_p = model(torch.tensor(ids)).logits.log_softmax(-1)
    labels = torch.tensor(labels)
    return (log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != IGNORE)).sum(-1)


LOSSES = {
    "sigmoid": lambda h: (
        -0.9 * torch.nn.functional.logsigmoid(0.3 * h) - 0.1 * torch.nn.functional.logsigmoid(-0.3 * h)
    ),
    "hinge": lambda h: (1 - 0.3 * h).relu(),
    "ipo": lambda h: (h - 1 / 0.6) ** 2,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_gradient_is_torchs(tmp_path, config, loss):
    """On a transformers model that has moved away from the one it started from."""
    shape = {"vocab_size": 256, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(0)
    oracle = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, initializer_range=0.2)).double().eval()
    oracle.save_pretrained(tmp_path / "hf")
    ByteTokenizer().save(tmp_path / "hf")
    smoothing = 0.1 * (loss == "sigmoid")
    settings = config(model=str(tmp_path / "hf"), dtype="float64", loss=loss, beta=0.3, label_smoothing=smoothing)
    tuner = DPO(settings, tmp_path / "run")
    batch = next(tuner.batches)
    half, lengths = len(batch.numbers), torch.tensor((batch.labels != IGNORE).sum(1)) if loss == "ipo" else 1
    with torch.no_grad():
        reference = torch_log_probabilities(oracle, batch.ids, batch.labels)
    np.testing.assert_allclose(tuner.reference[:, batch.numbers].ravel(), reference, rtol=1e-12)
    draw = np.random.default_rng(0)
    for _, parameter in tuner.model.named_parameters():
        parameter.data = parameter.data + 0.05 * draw.normal(size=parameter.shape)
    state = {name: torch.tensor(array) for name, array in to_huggingface(tuner.model).items()}
    oracle.load_state_dict(state, strict=False)
    ratios = (torch_log_probabilities(oracle, batch.ids, batch.labels) - reference) / lengths
    expected = LOSSES[loss](ratios[:half] - ratios[half:]).sum()
    expected.backward()
    found = tuner.loss(batch)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    for _, parameter in tuner.model.named_parameters():
        parameter.data = parameter.grad
    theirs = {name: parameter.grad.numpy() for name, parameter in oracle.named_parameters()}
    ours = to_huggingface(tuner.model)
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    assert set(theirs) <= set(ours)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-9, atol=1e-9 * largest, err_msg=name)


@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=2)])
def test_it_begins_with_log_2_and_learns_the_preference(tmp_path, config, lora):
    tuner = DPO(config(lora=lora, max_iters=20, eval_interval=20, beta=0.5, learning_rate=3e-2), tmp_path / "run")
    tuner.train()
    report = tuner.finish()
    first, *_, last = [line for line in read_metrics(tmp_path / "run") if line["split"] == "val"]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["accuracy"] == 0.5 and abs(first["margin"]) < 1e-4
    assert last["loss"] < 0.55 and last["accuracy"] == 1 and last["margin"] > 0.3
    values = json.loads((tmp_path / "run/report.json").read_text())
    assert values == report.values
    before, after = values["test"]["before"], values["test"]["after"]
    assert before["loss"] == pytest.approx(math.log(2)) and before["kl"] == 0
    assert after["accuracy"] == 1 and after["margin"] == pytest.approx(after["chosen"] - after["rejected"])
    assert after["kl"] > 0.001
    assert len(values["answers"]) == 2
    html = (tmp_path / "run/report.html").read_text()
    HTMLParser().feed(html)
    assert html.count("<svg") == 2 and not re.search(r'(src|href)="http', html)
    assert "100.0%" in report.summary()


def test_the_reference_is_computed_once_and_is_the_model_without_adapters(tmp_path, config, monkeypatch):
    whole = DPO(config(), tmp_path / "whole")
    expected = dpo.log_probabilities(whole.load_base(), whole.found.pairs)
    adapted = DPO(config(lora=LoRAConfig(rank=2)), tmp_path / "run")
    adapted.train()
    np.testing.assert_array_equal(whole.reference, expected)
    np.testing.assert_array_equal(adapted.reference, expected)
    stored = (tmp_path / "run" / REFERENCE).read_bytes()
    resumed = DPO(config(lora=LoRAConfig(rank=2)), tmp_path / "run")
    computed = []
    found = dpo.log_probabilities
    monkeypatch.setattr(dpo, "log_probabilities", lambda *given: computed.append(0) or found(*given))
    np.testing.assert_array_equal(resumed.reference, expected)
    assert not computed
    (tmp_path / "run" / REFERENCE).write_bytes(stored[:-8] + bytes(8))  # damaged: its checksum says so
    again = DPO(config(lora=LoRAConfig(rank=2)), tmp_path / "run")
    np.testing.assert_array_equal(again.reference, expected)
    assert computed and (tmp_path / "run" / REFERENCE).read_bytes() == stored


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, config, interrupted):
    settings = config(gradient_accumulation_steps=2)
    whole = DPO(settings, tmp_path / "whole")
    whole.train()
    parts = DPO(settings, tmp_path / "parts")
    interrupted(parts, 4)
    assert checkpoint.newest(tmp_path / "parts").name == "step-000005"
    random.manual_seed(99)  # whatever happens in between
    (tmp_path / "parts" / REFERENCE).unlink()
    resumed = DPO(settings, tmp_path / "parts")
    resumed.train()
    last = "checkpoints/step-000008"
    for file in (tmp_path / "whole" / last).iterdir():
        assert (tmp_path / "parts" / last / file.name).read_bytes() == file.read_bytes(), file.name
    assert resumed.finish().values == whole.finish().values


def test_the_command_line(tmp_path, base, data, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "model": base,
        "data": data,
        "style": "plain",
        "max_iters": 2,
        "val_fraction": 0.1,
        "train_fraction": 0.8,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    assert cli.main(["finetune", "dpo", *flags]) == 0
    out = capsys.readouterr().out
    assert "48 train, 6 val, 6 test pairs, as plain" in out and "reward accuracy" in out
    assert (tmp_path / "runs/pairs-dpo/report.html").is_file()
    data.write_text("{}")
    assert cli.main(["finetune", "dpo", *flags]) == 2
    assert "pairs.jsonl, line 1: there is no field 'chosen'" in capsys.readouterr().err
