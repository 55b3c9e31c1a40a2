"""What the commands that use a model share: its loading, and a word about the first use's compiling."""

import contextlib
import functools
import sys
from dataclasses import dataclass
from typing import Literal

from tinygrad_llm import hub, tokenizers
from tinygrad_llm.formats import check_vocabulary, load_model
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.tokenizers import Tokenizer
from tinygrad_llm.training.checkpoint import find_model
from tinygrad_llm.training.compute import compute_as
from tinygrad_llm.training.display import COMPILING, compiling

MODEL = """a run folder or a checkpoint in one, a .gguf file or a Python package with one, a Hugging Face
folder or hub name, or a folder of OpenAI's"""


@dataclass(frozen=True)
class Loading:
    """How a model is loaded and computed with.

    Args:
        quantized: compute with the 8-bit and 4-bit blocks of a GGUF file; false makes its weights float32 first
        device: cpu, or cuda, cuda:1, … for a GPU
        precision: of matrix products on a GPU: float32; or by tensor cores tf32, bfloat16 or float16, summed in float32
        kernels: kernel sets by preference, with commas between them; numba where it is installed
        threads: cores to use; all unless given
    """

    quantized: bool = True
    device: str = "cpu"
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    kernels: str | None = None
    threads: int | None = None

    def load(self, source: str) -> tuple[LanguageModel, Tokenizer]:
        """The model, on the device, and the tokenizer that `source` means, after it is set what computes.

        Raises UserError where they cannot be had, or do not belong together.
        """
        compute_as(self)
        path = find_model(hub.locate(source))
        model, tokenizer = load_model(path, quantized=self.quantized), tokenizers.load(path)
        check_vocabulary(model, tokenizer)
        return model.to(self.device), tokenizer


def notice(quiet: bool = False) -> contextlib.AbstractContextManager:
    """Inside, the first kernel that is compiled gives a line on standard error."""
    return contextlib.nullcontext() if quiet else compiling(functools.cache(lambda: print(COMPILING, file=sys.stderr)))
