"""`tinygrad-llm convert`"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.filesize import decimal

from tinygrad_llm import hub, tokenizers
from tinygrad_llm.cli.loading import MODEL
from tinygrad_llm.cli.parsing import Parser, take
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import gguf, huggingface, load_model
from tinygrad_llm.formats.gguf_config import ACTIVATION
from tinygrad_llm.quantization import Quantized
from tinygrad_llm.tokenizers.gguf import NO_VOCABULARY
from tinygrad_llm.training.checkpoint import find_model

DESCRIPTION = f"""Write a model in another format. FROM is
{MODEL}.
TO is a file for llama.cpp where it ends in .gguf, and a folder for transformers otherwise.

examples:
  tinygrad-llm convert runs/mine mine.gguf
  tinygrad-llm convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2
  tinygrad-llm convert smollm2 smollm2.gguf --type Q8_0
"""


@dataclass(frozen=True)
class Conversion:
    """How to write it.

    Args:
        type: what the matrices of a .gguf file become: F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0. Without it those
            in 8-bit or 4-bit blocks stay as they are, and others become F32
    """

    type: Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] | None = None


def run(argv: list[str]) -> int:
    parser = Parser("convert", DESCRIPTION, Conversion, positional="FROM TO")
    parser.add_argument("source", metavar="FROM", help=MODEL)
    parser.add_argument("target", metavar="TO", help="a .gguf file or a folder")
    settings = parser.settings(argv)
    source, target = find_model(hub.locate(settings.pop("source"))), Path(settings.pop("target"))
    c, to_gguf = take(settings, Conversion), target.suffix == ".gguf"
    if c.type and not to_gguf:
        raise UserError(f"types are for .gguf files, and {target} is not called one")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target} cannot be written while it is read: give TO another name")
    if target.exists() and target.is_dir() == to_gguf:
        raise UserError(f"{target} is {'a folder' if to_gguf else 'a file'} already: give TO another name")

    model = load_model(source, quantized=to_gguf and c.type is None)
    tokenizer = _tokenizer(source)
    if to_gguf:
        gguf.save(model, target, tokenizer, type=c.type)
    else:
        huggingface.save_pretrained(model, target, tokenizer)
    shape = model.config
    print(
        f"{target}: {type(model).__name__}, {shape.n_layer} layers, {shape.n_head} heads, {shape.n_embd} wide, "
        f"{shape.vocab_size:,} tokens, context {shape.block_size:,}"
    )
    for line in _about_file(target) if to_gguf else _about_folder(target):
        print(f"  {line}")
    return 0


def _tokenizer(source: Path) -> tokenizers.Tokenizer | None:
    """The model's tokenizer, or None and a word about it where there is none that can be read."""
    try:
        return tokenizers.load(source)
    except UserError as error:
        print(f"tinygrad-llm: going on without a tokenizer: {error}", file=sys.stderr)
        return None


def _about_folder(path: Path) -> Iterator[str]:
    for file in sorted(path.iterdir()):
        yield f"{file.name}: {_size(file)}"


def _about_file(path: Path) -> Iterator[str]:
    """What a .gguf file holds, read again from it, and what llama.cpp makes of it otherwise than we."""
    file = gguf.read(path)
    types = Counter(x.type if isinstance(x, Quantized) else f"F{x.itemsize * 8}" for x in file.tensors.values())
    counts = ", ".join(f"{count} {name}" for name, count in types.most_common())
    yield f"{_size(path)}, {len(file.tensors)} tensors: {counts}"
    if file.metadata["tokenizer.ggml.model"] == NO_VOCABULARY:
        yield "llama.cpp opens it without a vocabulary: it has none of this kind"
    if file.metadata.get(ACTIVATION) == "gelu":
        yield "llama.cpp computes GPT-2's approximation of GELU instead of the exact one: other logits, a little"


def _size(path: Path) -> str:
    return decimal(path.stat().st_size)
