"""Where text comes from: a file, a folder of text files, or a known text by its name."""

import hashlib
import os
from pathlib import Path

from tinygrad_llm.errors import UserError

SOURCES = {
    "python-docs": "the Python language reference that every interpreter ships (needs no download)",
    "shakespeare": "Tiny Shakespeare, 1.1 MB (found in TINYGRAD_LLM_DATA, or downloaded once)",
}
DOWNLOADS = {  # name: (file, URL, SHA-256)
    "shakespeare": (
        "tinyshakespeare/input.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def cache_folder() -> Path:
    """Where downloads and encoded texts are kept: `TINYGRAD_LLM_CACHE`, or the platform's cache folder."""
    import pooch  # where it is used, since it brings a client for the web along

    return Path(os.environ.get("TINYGRAD_LLM_CACHE") or pooch.os_cache("tinygrad-llm"))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(source: str | os.PathLike) -> str:
    """The text of `source`: a name in SOURCES, a UTF-8 file, or a folder of *.txt and *.md files.

    A name comes first; write `./shakespeare` for a file of that name. A file's text is kept to the byte.
    A folder is read recursively, sorted by path, and its texts joined by blank lines.

    Raises UserError for what does not exist, is empty or is not UTF-8, and for a known text whose download
    fails or whose checksum is wrong.
    """
    source = os.fspath(source)
    if source == "python-docs":
        return _python_docs()
    if source in DOWNLOADS:
        return read_file(_fetch(*DOWNLOADS[source]))
    if os.path.isdir(source):
        files = sorted(path for path in Path(source).rglob("*.*") if path.suffix in {".txt", ".md"})
        if not files:
            raise UserError(f"the folder {source} holds no .txt or .md file")
        return "\n\n".join(read_file(path).strip("\n") for path in files) + "\n"
    if not os.path.exists(source):
        raise UserError(f"no file, folder or known text is called {source!r}; known are {', '.join(SOURCES)}")
    return read_file(Path(source))


def read_file(path: Path) -> str:
    """The text of a UTF-8 file, to the byte. Raises UserError for one that cannot be read, is empty or is not UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8")  # not read_text, which would change the line ends
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        raise UserError(f"{path} is not UTF-8: {where}; save it as UTF-8") from error
    if not text:
        raise UserError(f"{path} is empty")
    return text


def _python_docs() -> str:
    """Every topic of Python's help, sorted by name, each under the call that shows it."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("this Python was installed without pydoc_data: give a text file instead") from error
    return "\n\n".join(f'>>> help("{name}")\n\n{topics[name].strip()}' for name in sorted(topics)) + "\n"


def _fetch(file: str, url: str, checksum: str) -> Path:
    """The path of a checked copy: TINYGRAD_LLM_DATA's own, or the cache's, which is downloaded once."""
    folder = os.environ.get("TINYGRAD_LLM_DATA")
    if folder and (local := Path(folder, file)).is_file():
        if sha256(local) != checksum:
            raise UserError(f"{local} has the wrong checksum: delete it, or replace it with {url}")
        return local
    import pooch

    path = cache_folder() / file
    try:
        pooch.retrieve(url, known_hash=checksum, fname=path.name, path=path.parent)
    except (OSError, ValueError) as error:  # a wrong checksum is pooch's ValueError
        why = "wrong checksum" if isinstance(error, ValueError) else type(error).__name__
        raise UserError(f"cannot download {url} ({why}): put the file at {path} by hand") from error
    return path
