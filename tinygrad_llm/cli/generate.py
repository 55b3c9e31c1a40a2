"""`tinygrad-llm generate`"""

import codecs
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinygrad_llm import kernels, tokenizers
from tinygrad_llm.cli.parsing import Parser
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats.huggingface import load_pretrained
from tinygrad_llm.generation import generate
from tinygrad_llm.tokenizers import Tokenizer
from tinygrad_llm.training.checkpoint import find_model
from tinygrad_llm.training.threads import set_threads

DESCRIPTION = """Let a trained model write: MODEL is a run folder, or a checkpoint in one.

examples:
  tinygrad-llm generate runs/python-docs-nanogpt-cpu
  tinygrad-llm generate runs/python-docs-nanogpt-cpu --prompt ">>> help(" --temperature 0.8
  tinygrad-llm generate runs/python-docs-nanogpt-cpu --temperature 0      the likeliest text, always the same
  tinygrad-llm generate runs/python-docs-nanogpt-cpu --seed 1 --samples 3
"""


@dataclass(frozen=True)
class Generation:
    """What to write.

    Args:
        prompt: the text to continue; a line break unless given
        prompt_file: a file with the text to continue
        crop_prompt: leave out the beginning of a prompt that is longer than the model's block
        max_new_tokens: how many tokens to write
        samples: how many texts to write
        temperature: below 1 likelier, above 1 more varied; 0 always takes the likeliest token
        top_k: draw among this many of the likeliest tokens
        top_p: draw among the likeliest tokens whose probabilities together reach this
        stop: a token at which to stop, such as "." or "<|endoftext|>"
        seed: the same seed gives the same text
        kernels: kernel sets by preference, with commas between them; numba where it is installed
        threads: cores to use; all unless given
    """

    prompt: str | None = None
    prompt_file: str | None = None
    crop_prompt: bool = False
    max_new_tokens: int = 500
    samples: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    stop: str | None = None
    seed: int | None = None
    kernels: str | None = None
    threads: int | None = None


def run(argv: list[str]) -> int:
    parser = Parser("generate", DESCRIPTION, Generation, positional="MODEL")
    parser.add_argument("model", metavar="MODEL", help="a run folder, or a folder with a model")
    settings = parser.settings(argv)
    folder = find_model(settings.pop("model"))
    c = Generation(**settings)
    if c.kernels is not None:
        kernels.use(*c.kernels.split(","))
    set_threads(c.threads)
    model, tokenizer = load_pretrained(folder), tokenizers.load(folder)
    ids = encode_prompt(c, tokenizer, model.config.block_size)
    stop = None if c.stop is None else stop_token(c.stop, tokenizer)
    seed = secrets.randbelow(2**32) if c.seed is None else c.seed
    if c.samples < 1:
        raise UserError(f"samples must be at least 1, not {c.samples}")
    for sample in range(c.samples):
        if c.samples > 1:
            print(f"\n--- {sample + 1} of {c.samples} ---")
        tokens = generate(
            model,
            ids,
            c.max_new_tokens,
            temperature=c.temperature,
            top_k=c.top_k,
            top_p=c.top_p,
            seed=seed + sample,
            stop_tokens=[] if stop is None else [stop],
        )
        sys.stdout.write(tokenizer.decode(ids))
        for piece in stream(tokens, tokenizer):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    return 0


def encode_prompt(c: Generation, tokenizer: Tokenizer, block_size: int) -> list[int]:
    """The prompt's tokens. Raises UserError where it is too long for the block, unless it may be cropped."""
    if c.prompt is not None and c.prompt_file is not None:
        raise UserError("--prompt and --prompt_file exclude each other")
    prompt = "\n" if c.prompt is None else c.prompt
    if c.prompt_file is not None:
        try:
            prompt = Path(c.prompt_file).read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise UserError(f"cannot read {c.prompt_file}: {error}") from error
    ids = tokenizer.encode(prompt).tolist()
    excess = len(ids) - block_size
    if excess > 0 and not c.crop_prompt:
        raise UserError(
            f"the prompt has {len(ids)} tokens and the model's block {block_size}: shorten it, "
            f"or leave out its first {excess} with --crop_prompt true"
        )
    if excess > 0:
        print(f"left out the first {excess} tokens of the prompt: the model's block is {block_size}", file=sys.stderr)
    return ids[max(excess, 0) :]


def stop_token(text: str, tokenizer: Tokenizer) -> int:
    """The one token that `text` is. Raises UserError if it is several."""
    ids = tokenizer.encode(text, allow_special=True)
    if len(ids) != 1:
        raise UserError(f"stop must be one token, and {text!r} is {len(ids)}: {', '.join(tokenizer.show(ids))}")
    return int(ids[0])


def stream(tokens: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    """The tokens' text as they come; bytes wait until the character that they begin is whole."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        yield decoder.decode(tokenizer.decode_bytes([token]))
    yield decoder.decode(b"", final=True)
