"""What DPO, PPO and GRPO share: a model is trained beside the one it started from, which is frozen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.prompts import Style, extract
from tinygrad_llm.finetuning.rollouts import sample
from tinygrad_llm.finetuning.tuner import Finetuner
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.nn.lora import without_adapters


@dataclass(frozen=True)
class AlignmentConfig(FinetuneConfig):
    """How prompts and answers look.

    Args:
        style: how prompts and answers are written: chat is the model's own template, which it has if it was published
            for conversations; alpaca has headings; plain is the texts alone. chat where the model has a template, else
            alpaca, unless given
        max_new_tokens: the most tokens of an answer that the model gives
        answers: how many answers before and after training stand in the report
    """

    style: Style | None = None
    max_new_tokens: int = 64
    answers: int = 10

    def __post_init__(self):
        super().__post_init__()
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.answers < 0:
            raise UserError(f"answers must not be negative, as {self.answers} is")
        if self.lora and self.lora.dropout:
            raise UserError(
                f"lora.dropout must be 0, not {self.lora.dropout}: probabilities are compared with those of a model "
                "that drops nothing"
            )


class Aligned(Finetuner):
    """Nothing is dropped while it trains: its probabilities are compared with the frozen model's, or its own before."""

    config: AlignmentConfig

    def __init__(self, config: AlignmentConfig, run: Path):
        super().__init__(config, run)
        self.model.eval()

    @property
    def style(self) -> Style:
        return self.config.style or ("chat" if self.tokenizer.chat_template else "alpaca")

    @contextmanager
    def start(self) -> Iterator[LanguageModel]:
        """The model to start from: without its adapters, the one that is trained; before any step, that one itself."""
        trunk = self.trunk(self.model)
        if self.config.lora:
            with without_adapters(trunk):
                yield trunk
        else:
            yield trunk if self.step == 0 else self.load_base().eval()

    def say(self, model: LanguageModel, prompts: Sequence[list[int]], **sampling) -> list[str]:
        """The model's answers to prompts, as texts."""
        eos = self.tokenizer.eos_ids
        answers = sample(model, prompts, self.config.max_new_tokens, eos, **sampling)
        return [self.text(answer) for answer in answers]

    def text(self, answer: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return extract(self.tokenizer.decode([i for i in answer if i not in self.tokenizer.eos_ids]), self.style)
