"""Examples: read from every kind of file, what is wrong with one, and arrays by padding and packing."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinygrad_llm import UserError
from tinygrad_llm.finetuning.data import Entry, Epochs, Example, collate, dataset, pack, read_entries, split
from tinygrad_llm.finetuning.objectives import IGNORE

FIELDS = [{"label": "ham", "text": 'he said "no", twice'}, {"label": "spam", "text": "win £5\u2028now"}]
FILES = {
    "a.json": json.dumps(FIELDS),
    "a.jsonl": "\n".join(json.dumps(f) for f in FIELDS) + "\n\n",
    "a.csv": 'text,label\n"he said ""no"", twice",ham\nwin £5\u2028now,spam\n',
    "bom.csv": '\ufefflabel,text\r\nham,"he said ""no"", twice"\r\nspam,win £5\u2028now\r\n',
    "a.tsv": 'label\ttext\nham\the said "no", twice\nspam\twin £5\u2028now\n',
    "Collection": 'ham\the said "no", twice\nspam\twin £5\u2028now\n',
}


@pytest.mark.parametrize("name", FILES)
def test_entries_are_the_same_from_every_kind_of_file(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name].encode())
    assert [e.fields for e in read_entries(tmp_path / name, ("label", "text"))] == FIELDS


WRONG = {
    "cut.json": ('[{"a": "b"},\n {"a": ', "cut.json is no JSON: Expecting value at line 2, column 8"),
    "object.json": ('{"a": 1}', "is no list of entries: it begins with '{', not '['"),
    "numbers.json": ("[{}, 3]", r"numbers.json, entry 2: it is 3, and not an object"),
    "cut.jsonl": ('{"a": "b"}\n\n{"a" "b"}', r"cut.jsonl, line 3 is no JSON: Expecting ':' delimiter at column 6"),
    "quote.csv": ('label,text\nham,"never\nended', r"quote.csv, line 3: unexpected end of data"),
    "more.csv": ("label,text\nham,a\nham,a,b\n", "more.csv, line 3: it has 3 fields, not the 2 that are expected"),
    "fewer": ("ham\ta\nspam\n", "fewer, line 2: it has 1 fields, not the 2 that are expected, label, text, with tabs"),
    "none.json": ("[]", "none.json holds no entries"),
    "none.csv": ("label,text\n", "none.csv holds no entries"),
    "none.jsonl": ("\n", "none.jsonl holds no entries"),
    "empty.csv": ("", "empty.csv is empty"),
    "deep.json": ("[" * 100_000, "deep.json is nested too deeply"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_malformed_file_is_one_line_that_says_where(tmp_path, name):
    text, message = WRONG[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        read_entries(tmp_path / name, ("label", "text"))
    assert "\n" not in str(caught.value)


def test_a_field_that_is_missing_empty_or_no_text_is_named_with_its_entry():
    entry = Entry("my.json, entry 7", {"a": "text", "b": " ", "c": 3})
    assert entry.text("a") == "text" and entry.text("b", may_be_empty=True) == " "
    with pytest.raises(UserError, match=r"my.json, entry 7: there is no field 'd', but 'a', 'b', 'c'"):
        entry.text("d")
    with pytest.raises(UserError, match=r"my.json, entry 7: 'b' is empty"):
        entry.text("b")
    with pytest.raises(UserError, match=r"my.json, entry 7: 'c' is 3, which is no text"):
        entry.text("c")


def test_known_data_sets_are_found_and_others_are_not(data_dir, monkeypatch):
    assert len(read_entries(dataset("sms-spam"), ("label", "text"))) == 5574
    assert set(read_entries(dataset("instruction-data"))[0].fields) == {"instruction", "input", "output"}
    with pytest.raises(UserError, match=r"there is no file nope.csv: give one, or a name: sms-spam"):
        dataset("nope.csv")
    monkeypatch.delenv("TINYGRAD_LLM_DATA")
    with pytest.raises(UserError, match="found in the folder TINYGRAD_LLM_DATA"):
        dataset("sms-spam")


def test_splits_are_disjoint_whole_and_the_seeds():
    parts = split(range(1494), 0.7, 0.1, seed=123)
    assert [len(part) for part in parts.values()] == [1045, 149, 300]  # the book's
    assert sorted(i for part in parts.values() for i in part) == list(range(1494))
    assert parts == split(range(1494), 0.7, 0.1, seed=123) != split(range(1494), 0.7, 0.1, seed=124)
    assert split(range(10), 0.8, 0.2, 0)["test"] == []
    with pytest.raises(UserError, match="9 examples are too few: none is left for val"):
        split(range(9), 0.7, 0.1, 0)


def test_epochs_meet_every_example_once_and_go_on_from_any_position():
    examples = [[i] * n for i, n in enumerate(np.random.default_rng(0).integers(1, 50, 301))]
    for length in (None, len):
        epochs = Epochs(examples, 4, list, seed=5, length=length)
        batches = [next(epochs) for _ in range(2 * len(epochs))]
        first, second = batches[: len(epochs)], batches[len(epochs) :]
        assert first != second
        for epoch in (first, second):
            assert sorted(e for batch in epoch for e in batch) == sorted(examples)
        again = Epochs(examples, 4, list, seed=5, length=length)
        again.load_state_dict({"position": 83})
        assert next(again) == batches[83]
    padding = sum(max(map(len, batch)) * len(batch) - sum(map(len, batch)) for batch in first)
    assert padding < 0.2 * sum(map(len, examples))


def test_collating_pads_and_a_label_stands_where_the_token_before_it_is_read():
    ids, labels = collate([Example([1, 2, 3], [IGNORE, 2, 3]), Example([4, 5], [4, 5])], pad_id=9)
    assert ids.tolist() == [[1, 2], [4, 9]]
    assert labels.tolist() == [[2, 3], [5, IGNORE]]


def test_packing_keeps_every_example_whole_and_numbers_it():
    draw = np.random.default_rng(1)
    examples = [Example(ids, ids) for ids in (list(draw.integers(0, 100, n)) for n in draw.integers(2, 17, 40))]
    ids, labels, segments = pack(examples, 16, pad_id=0)
    assert ids.shape[1] <= 16 and len(ids) < 30
    found = [
        [*ids[row][at := segments[row] == segment], labels[row][at][-1]]
        for row in range(len(ids))
        for segment in np.unique(segments[row][labels[row] != IGNORE])
    ]
    assert sorted(found) == sorted(e.ids for e in examples)
    with pytest.raises(UserError, match="17 tokens does not fit into a row of 16"):
        pack([Example(range(18), range(18))], 16)


def test_it_is_one_path_whatever_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sms-spam").write_text("ham\thello\n")  # a file of that name comes before the known one
    assert dataset("sms-spam") == Path("sms-spam")
