"""`tinygrad-llm tokenizer`"""

import sys
import time
from dataclasses import dataclass
from typing import Literal

from tinygrad_llm import tokenizers
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.data.sources import read_text
from tinygrad_llm.errors import UserError

HELP = """usage: tinygrad-llm tokenizer train|encode|decode|show ...

  train    learn a vocabulary from a text, and save it as a folder with tokenizer.json
  encode   print the token ids of a text
  decode   print the text of token ids
  show     print how a text is cut into tokens

examples:
  tinygrad-llm tokenizer train --kind bpe --data my.txt --vocab_size 1024 --out my-bpe
  tinygrad-llm tokenizer show my-bpe "How is this cut?"
  tinygrad-llm tokenizer show model.gguf "How is this cut?"
  tinygrad-llm tokenizer encode gpt2 "Hello, world" | tinygrad-llm tokenizer decode gpt2
  tinygrad-llm tokenizer ACTION --help
"""


@dataclass(frozen=True)
class Training:
    """What to learn.

    Args:
        kind: bpe, byte-level byte-pair encoding; word, words and punctuation; char, single characters; byte, nothing
        data: a text file, a folder of .txt and .md files, or a name: python-docs or shakespeare
        vocab_size: how many tokens to learn, for bpe and word
        out: the folder to save it in
    """

    kind: Literal["bpe", "word", "char", "byte"] = "bpe"
    data: str = "python-docs"
    vocab_size: int | None = None
    out: str = "tokenizer"


@dataclass(frozen=True)
class Nothing:
    """The other actions have no settings."""


def run(argv: list[str]) -> int:
    actions = {"train": train, "encode": encode, "decode": decode, "show": show}
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if action not in actions:
        raise UserError(f"tokenizer has no action {action!r}: choose one of {', '.join(actions)}")
    actions[action](rest)
    return 0


def train(argv: list[str]) -> None:
    c = Training(**Parser("tokenizer train", "Learn a vocabulary from a text.", Training).settings(argv))
    text = read_text(c.data)
    start = time.perf_counter()
    tokenizer = tokenizers.train(c.kind, text, c.vocab_size)
    seconds = time.perf_counter() - start
    tokenizer.save(c.out)
    count = len(tokenizer.encode(text))
    print(f"{c.out}: {tokenizer.vocab_size} tokens learned from {len(text):,} characters in {seconds:.1f} s")
    print(f"the text is {count:,} tokens of {len(text.encode()) / count:.2f} bytes")


def encode(argv: list[str]) -> None:
    tokenizer, text = _tokenizer_and_text("encode", "Print the token ids of TEXT, or of standard input.", argv)
    print(*tokenizer.encode(text).tolist())


def decode(argv: list[str]) -> None:
    tokenizer, text = _tokenizer_and_text("decode", "Print the text of the token ids in TEXT, or standard input.", argv)
    try:
        ids = [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise UserError(f"token ids are whole numbers with spaces or commas between them: {error}") from error
    print(tokenizer.decode(ids))


def show(argv: list[str]) -> None:
    tokenizer, text = _tokenizer_and_text("show", "Print how TEXT, or standard input, is cut into tokens.", argv)
    ids = tokenizer.encode(text).tolist()
    for token, shown in zip(ids, tokenizer.show(ids), strict=True):
        print(f"{token:>7}  {shown}")


def _tokenizer_and_text(action: str, description: str, argv: list[str]) -> tuple[tokenizers.Tokenizer, str]:
    parser = Parser(f"tokenizer {action}", description, Nothing, positional="TOKENIZER [TEXT]")
    parser.add_argument("tokenizer", metavar="TOKENIZER", help="a folder, a .gguf file, or a name such as gpt2")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="standard input unless given")
    settings = parser.settings(argv)
    tokenizer = tokenizers.load(settings["tokenizer"])
    return tokenizer, sys.stdin.read() if settings["text"] is None else settings["text"]
