"""Classifiers in folders that transformers' AutoModelForSequenceClassification opens: a language model's, with
score.weight in place of a head, and the labels in config.json.

transformers pools the last token before the padding, and knows no other way: a classifier that takes the mean is told
by an entry of ours, "pooling", which transformers passes over.
"""

import json
import os
import re
from dataclasses import replace
from typing import get_args

from tinygrad_llm import hub
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.formats.huggingface import assemble_folder, open_model, to_config, to_huggingface, write_folder
from tinygrad_llm.models.heads import Pooling, SequenceClassifier
from tinygrad_llm.nn import Parameter
from tinygrad_llm.tokenizers import Tokenizer

SCORE = "score.weight"


def save_classifier(model: SequenceClassifier, folder: str | os.PathLike, tokenizer: Tokenizer | None = None) -> None:
    """Write the classifier and its tokenizer. Raises UserError or OSError where that fails."""
    config = to_config(model.trunk, tokenizer)
    config |= {
        "architectures": [
            re.sub("LMHeadModel|ForCausalLM", "ForSequenceClassification", name) for name in config["architectures"]
        ],
        "id2label": dict(enumerate(model.labels)),
        "label2id": {label: i for i, label in enumerate(model.labels)},
        "pad_token_id": padding(tokenizer),
        "pooling": model.pooling,
    }
    write_folder(folder, to_huggingface(model.trunk) | {SCORE: model.score.weight.data}, config, tokenizer)


def load_classifier(source: str | os.PathLike, dtype=None) -> SequenceClassifier:
    """The classifier in a folder that `save_classifier`, or transformers for a GPT-2, Llama or Qwen2, has written.

    Its parameters have dtypes as `load_pretrained` gives them. Raises UserError for what is missing, damaged or does
    not fit together, and for a model that is no classifier.
    """
    folder = hub.locate(source)
    if not (folder / "config.json").is_file():
        raise UserError(f"no classifier at {source}: give a folder with config.json and model.safetensors")
    config, stored = open_model(folder)
    if SCORE not in stored:
        raise UserError(f"{folder} is no classifier: it has no {SCORE}; make one with tinygrad-llm finetune classify")
    score = stored.pop(SCORE)
    with reading(folder / "config.json"):
        about = json.loads((folder / "config.json").read_text("utf-8"))
        labels = about.get("id2label") or {str(i): f"LABEL_{i}" for i in range(score.shape[0])}
        labels = [str(labels[key]) for key in sorted(labels, key=int)]
        pooling = about.get("pooling", "last")
        if pooling not in get_args(Pooling):
            raise UserError(f"pooling is {pooling!r}, but must be one of {', '.join(get_args(Pooling))}")
    trunk = assemble_folder(folder, replace(config, tie_weights=True), stored, dtype)
    if score.shape != (len(labels), config.n_embd):
        raise UserError(f"{folder}: {SCORE} has shape {score.shape}, not {(len(labels), config.n_embd)}")
    model = SequenceClassifier(trunk, labels, pooling).eval()
    model.score.weight = Parameter(score.read(model.score.weight.dtype))
    return model


def padding(tokenizer: Tokenizer | None) -> int | None:
    """A token to pad with that is never a text's last: one for that, or one that ends texts; None without either."""
    if tokenizer is None:
        return None
    own = tokenizer.special_tokens.get(tokenizer.roles.get("pad_token"))
    return min(tokenizer.eos_ids, default=None) if own is None else own
