"""Models in files: ours and Hugging Face's folders, the hub, GGUF files, and OpenAI's own checkpoints of GPT-2.

The formats' modules are imported where they are used: they import this one.
"""

import os
from pathlib import Path

import numpy as np

from tinygrad_llm import hub
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.nn.lora import adapters

ACCEPTED = (
    "a run folder or a checkpoint in one, a Hugging Face folder (config.json and model.safetensors), its name on the "
    "hub (owner/name), a .gguf file, the name of a Python package that holds one, a folder with adapters, or OpenAI's "
    "folder of a GPT-2 (hparams.json and model.ckpt)"
)


def load_model(source: str | os.PathLike, *, dtype=np.float32, quantized: bool = False) -> LanguageModel:
    """The model in `source`: a run folder or a checkpoint, a Hugging Face folder or its name on the hub, a .gguf file
    or the name of a Python package that holds one, a folder of OpenAI's with a GPT-2, or one with adapters (`peft`),
    which are merged into the model that they are for.

    It is in `eval` mode, its parameters of this dtype; with `quantized`, matrices that a GGUF file has in blocks
    of 8 or 4 bits stay in them. Raises UserError for what is none of these, is damaged or does not fit together.
    """
    path = hub.locate(source)
    if path.suffix == ".gguf":
        from tinygrad_llm.formats import gguf

        return gguf.load(path, dtype=dtype, quantized=quantized)
    if (path / "hparams.json").is_file():
        from tinygrad_llm.formats import openai

        return openai.load(path, dtype)
    if (path / "metrics.jsonl").is_file():
        from tinygrad_llm.training.checkpoint import find_model

        path = find_model(path)
    if (path / "adapter_config.json").is_file():
        from tinygrad_llm.formats import peft

        return peft.load_merged(path, dtype=dtype, quantized=quantized)
    if (path / "config.json").is_file():
        from tinygrad_llm.formats import huggingface
        from tinygrad_llm.training.checkpoint import find_model

        return huggingface.load_pretrained(find_model(path), dtype)
    raise UserError(f"there is no model at {source}: give {ACCEPTED}")


def save_model(model: LanguageModel, path: str | os.PathLike, tokenizer=None, chat_template: str | None = None) -> None:
    """Write a folder that transformers opens, or where `path` ends in .gguf, a file that llama.cpp opens.

    Raises UserError or OSError where it cannot be written.
    """
    if Path(path).suffix == ".gguf":
        from tinygrad_llm.formats import gguf

        gguf.save(model, path, tokenizer, chat_template)
    else:
        from tinygrad_llm.formats import huggingface

        huggingface.save_pretrained(model, path, tokenizer, chat_template)


def check_vocabulary(model: LanguageModel, tokenizer) -> None:
    """Raise UserError where the tokenizer has tokens that the model has no embedding for."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, and the model embeds {model.config.vocab_size}: "
            "they do not belong together"
        )


def check_merged(model: LanguageModel) -> None:
    """Raise UserError where the model has adapters, which stand beside weights and not in them."""
    if adapters(model):
        raise UserError("the model has adapters: merge them into it first, or save them alone by formats.peft")
