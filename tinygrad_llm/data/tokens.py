"""Text as a memory-mapped file of token ids: a plain .npy file of uint16 or uint32."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from tinygrad_llm.data.sources import cache_folder, read_text, sha256
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import replacing, write_atomic
from tinygrad_llm.tokenizers.base import Tokenizer


def encode_to_file(text: str, tokenizer: Tokenizer, path: str | os.PathLike) -> np.memmap:
    """Write the ids of `text` to `path`, whole or not at all, and map them as `open_tokens` does.

    Raises UserError for an id outside the vocabulary and where the file cannot be written.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    ids = np.asarray(tokenizer.encode(text))
    _check_vocabulary(ids, tokenizer.vocab_size, "the encoded text")  # before a narrower type could wrap them
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, ids.astype(dtype), allow_pickle=False)
    return open_tokens(path, tokenizer.vocab_size)


def open_tokens(path: str | os.PathLike, vocab_size: int) -> np.memmap:
    """Map the token file `path` read-only: (N,), uint16 or uint32.

    Raises UserError for a file that is missing, truncated or of another kind, and for an id outside the
    vocabulary.
    """
    if not os.path.isfile(path):
        raise UserError(f"no token file at {path}")
    try:
        tokens = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header fails in many ways, as it is parsed like Python source
        raise UserError(f"{path} is not a token file, or is truncated: encode the text again") from error
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
        raise UserError(f"{path} holds {tokens.dtype} of shape {tokens.shape}, not a row of token ids")
    _check_vocabulary(tokens, vocab_size, path)
    return tokens


def prepare(
    source: str | os.PathLike, tokenizer: Tokenizer, val_fraction: float = 0.1
) -> tuple[np.memmap, np.memmap]:
    """The training and the validation tokens of `source` (see `read_text`), encoded once and then cached.

    The text is cut in two, the first part for training, and each part encoded by itself, as nanoGPT does.
    Raises UserError for a bad source, and for a val_fraction that is not between 0 and 1.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
    text = read_text(source)
    cut = int(len(text) * (1 - val_fraction))
    return _encode_once(text[:cut], tokenizer), _encode_once(text[cut:], tokenizer)


def _encode_once(text: str, tokenizer: Tokenizer) -> np.memmap:
    """The tokens of `text`, from the cache where it holds them, undamaged."""
    path = cache_folder() / "tokens" / f"{_key(text, tokenizer)}.npy"
    checksum = path.with_suffix(".sha256")
    if not (path.is_file() and checksum.is_file() and checksum.read_text() == sha256(path)):
        encode_to_file(text, tokenizer, path)
        write_atomic(checksum, sha256(path))
    return open_tokens(path, tokenizer.vocab_size)


def _key(text: str, tokenizer: Tokenizer) -> str:
    """A hash of all that decides the ids: the text, the tokenizer as saved and, for its code, a sample."""
    digest = hashlib.sha256(np.asarray(tokenizer.encode(text[:10_000]), np.int64).tobytes())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        for file in sorted(Path(folder).rglob("*")):
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    digest.update(text.encode())
    return digest.hexdigest()


def _check_vocabulary(tokens: np.ndarray, vocab_size: int, where: str | os.PathLike) -> None:
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocab_size):
        position = np.argmax((tokens < 0) | (tokens >= vocab_size))
        raise UserError(f"{where}: token {tokens[position]} at position {position} is outside the vocabulary "
                        f"of {vocab_size}: was it encoded with another tokenizer?")
