"""`tinygrad-llm generate`"""

import json
import secrets
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from tinygrad_llm.cli.loading import MODEL, Loading, notice
from tinygrad_llm.cli.parsing import Parser, take
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.generation import Decoding, Sampling
from tinygrad_llm.generation.text import Text
from tinygrad_llm.tokenizers import Tokenizer

DESCRIPTION = f"""Let a model continue a text. MODEL is
{MODEL}.

examples:
  tinygrad-llm generate runs/python-docs-nanogpt-cpu
  tinygrad-llm generate runs/python-docs-nanogpt-cpu --prompt ">>> help(" --temperature 0.8
  tinygrad-llm generate runs/python-docs-nanogpt-cpu --temperature 0      the likeliest text, always the same
  tinygrad-llm generate runs/python-docs-nanogpt-cpu --seed 1 --samples 3
  tinygrad-llm generate model.gguf --prompt "Once upon a time" --top_p 0.9 --stop "The end" --stop "THE END"
  tinygrad-llm generate model.gguf --prompts_file questions.txt --max_new_tokens 50 --json
"""


@dataclass(frozen=True)
class Writing:
    """What to write.

    Args:
        prompt: the text to continue; a line break unless given
        prompt_file: a file with the text to continue
        prompts_file: a file with a text to continue in each of its lines
        allow_special: take the name of a special token in a prompt, such as <|endoftext|>, for that token
        crop_prompt: leave out the beginning of a prompt that is longer than the model's block
        max_new_tokens: the most tokens to write
        samples: how many texts to write for each prompt; each has a stream of the seed to itself
        batch_size: how many texts to write at a time
    """

    prompt: str | None = None
    prompt_file: str | None = None
    prompts_file: str | None = None
    allow_special: bool = False
    crop_prompt: bool = False
    max_new_tokens: int = 500
    samples: int = 1
    batch_size: int = 8


@dataclass
class Row:
    """One text: what it continues, and when each of its tokens came."""

    prompt: int
    sample: int
    ids: list[int]
    text: Text
    times: list[float] = field(default_factory=list)  # seconds since the prompt began to be read

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else None


def run(argv: list[str]) -> int:
    parser = Parser("generate", DESCRIPTION, Writing, Sampling, Loading, positional="MODEL")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="a text to stop at; may be given several times"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each text, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="say nothing of compiling, and nothing of speed")
    settings = parser.settings(argv)
    c, sampling, loading = (take(settings, kind) for kind in (Writing, Sampling, Loading))
    for name in ("samples", "batch_size"):
        if getattr(c, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(c, name)}")
    prompts, stop = read_prompts(c), settings["stop"]
    stop = [str(text) for text in (stop if isinstance(stop, list) else [stop])]  # a file of settings may have just one
    model, tokenizer = loading.load(settings["model"])
    if sampling.seed is None:
        sampling = replace(sampling, seed=secrets.randbelow(2**32))
    prompts = [encode_prompt(c, prompt, tokenizer, model.config.block_size) for prompt in prompts]
    rows = [
        Row(number, sample, ids, Text(tokenizer, stop))
        for number, ids in enumerate(prompts, 1)
        for sample in range(1, c.samples + 1)
    ]
    batches = [rows[start : start + c.batch_size] for start in range(0, len(rows), c.batch_size)]
    with notice(settings["quiet"]):
        for i, batch in enumerate(batches):
            ids = [row.ids for row in batch]
            stream = i * c.batch_size
            decoding = Decoding(model, ids, c.max_new_tokens, sampling, tokenizer.eos_ids, stream=stream)
            if settings["json"]:
                print_json(decoding, batch)
            else:
                print_texts(decoding, batch, tokenizer, stream + 1, len(rows))
    if sys.stderr.isatty() and not settings["quiet"]:
        print(speed(batches), file=sys.stderr)
    return 0


def read_prompts(c: Writing) -> list[str]:
    """The texts to continue. Raises UserError for several places to take them from, and a file that cannot be read."""
    given = [name for name in ("prompt", "prompt_file", "prompts_file") if getattr(c, name) is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in given)} exclude each other")
    if c.prompt_file is None and c.prompts_file is None:
        return ["\n" if c.prompt is None else c.prompt]
    path = c.prompt_file or c.prompts_file
    with reading(path):
        text = Path(path).read_text("utf-8")
    prompts = [text] if c.prompt_file else [line for line in text.split("\n") if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompt: write one a line")
    return prompts


def encode_prompt(c: Writing, prompt: str, tokenizer: Tokenizer, block_size: int) -> list[int]:
    """The prompt's tokens, after the one that begins every text, for models that want it.

    Raises UserError where there are too many for the block, unless the prompt may be cropped.
    """
    ids = tokenizer.encode(prompt, allow_special=c.allow_special).tolist()
    begin = [] if tokenizer.bos_id is None or ids[:1] == [tokenizer.bos_id] else [tokenizer.bos_id]
    excess = max(0, len(begin) + len(ids) - block_size)
    if excess and not c.crop_prompt:
        raise UserError(
            f"the prompt has {len(begin) + len(ids)} tokens and the model's block {block_size}: shorten it, "
            f"or leave out its first {excess} with --crop_prompt true"
        )
    if excess:
        print(f"left out the first {excess} tokens of the prompt: the model's block is {block_size}", file=sys.stderr)
    return begin + ids[excess:]


def print_texts(decoding: Decoding, batch: list[Row], tokenizer: Tokenizer, number: int, total: int) -> None:
    """The first text of a batch as it comes, then the others; `number` is the first one's among the total."""
    for i, row in enumerate(batch):
        if total > 1:
            print(f"\n--- {number + i} of {total} ---")
        ids = row.ids[1:] if row.ids[0] == tokenizer.bos_id else row.ids
        sys.stdout.write(tokenizer.decode(ids))
        if i == 0:
            write(decoding, batch, sys.stdout)
        else:
            sys.stdout.write(row.text.text)
        sys.stdout.write("\n")


def print_json(decoding: Decoding, batch: list[Row]) -> None:
    """A line for each text."""
    write(decoding, batch)
    for row, tokens, reason in zip(batch, decoding.tokens, decoding.finish_reasons, strict=True):
        result = {
            "prompt": row.prompt,
            "sample": row.sample,
            "seed": decoding.sampling.seed,
            "text": row.text.text,
            "tokens": tokens,
            "finish_reason": reason,
            "prompt_tokens": len(row.ids),
            "seconds_to_first_token": row.times[0] if row.times else None,
            "tokens_per_second": row.tokens_per_second,
        }
        print(json.dumps(result, ensure_ascii=False), flush=True)


def write(decoding: Decoding, batch: list[Row], shown: TextIO | None = None) -> None:
    """Let the texts of a batch grow to their ends, the first of them before the reader's eyes."""

    def show(i: int, piece: str) -> None:
        if i == 0 and shown:
            shown.write(piece)
            shown.flush()

    start = time.perf_counter()
    for step in decoding:
        now = time.perf_counter() - start
        for i, token in step.items():
            batch[i].times.append(now)
            show(i, batch[i].text.add(token))
            if batch[i].text.stopped:
                decoding.end(i)
    for i, row in enumerate(batch):
        show(i, row.text.finish())


def speed(batches: list[list[Row]]) -> str:
    """How long the first token took, and how many a second came after it."""
    batches = [rows for batch in batches if (rows := [row for row in batch if row.times])]
    if not batches:
        return "no tokens written"
    first = batches[0][0]
    count = sum(len(row.times) - 1 for rows in batches for row in rows)
    seconds = sum(max(row.times[-1] for row in rows) - rows[0].times[0] for rows in batches)
    line = f"first token after {first.times[0]:.2f} s, for a prompt of {len(first.ids):,} tokens"
    return line + (f"; then {count / seconds:,.1f} tokens/s" if count else "")
