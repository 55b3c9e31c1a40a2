"""Models that others published under a name: on the Hugging Face hub, or in a Python package."""

import importlib.util
import os
import re
from pathlib import Path

from tinygrad_llm.errors import UserError

FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]


def locate(source: str | os.PathLike) -> Path:
    """The local path that `source` means: itself; for a hub name `owner/name` a folder with that model's files; for the
    name of an installed Python package the .gguf file in it, if it has one.

    What is on the hub is in huggingface_hub's cache, or put there. Raises UserError where that fails.
    """
    path = Path(source)
    if not path.exists() and (packaged := _packaged(str(source))):
        return packaged
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)):
        return path
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{source} does not exist; for one on the hub: pip install 'tinygrad-llm[hub]'") from error
    try:
        return Path(snapshot_download(str(source), allow_patterns=FILES))
    except Exception as error:  # the hub's own, its HTTP client's, the disk's
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"there is no file or folder {source}, and it cannot be had from the Hugging Face hub ({reason[:200]})"
        ) from error


def _packaged(name: str) -> Path | None:
    """The .gguf file in the package of this name, which is found and not imported."""
    module = name.replace("-", "_")
    package = importlib.util.find_spec(module) if module.isidentifier() else None
    folders = package.submodule_search_locations or [] if package else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)
