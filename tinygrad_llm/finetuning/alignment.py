"""What DPO, PPO and GRPO share: a model is trained beside the one it started from, which is frozen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning.config import StyleConfig
from tinygrad_llm.finetuning.prompts import Styled, said
from tinygrad_llm.finetuning.rollouts import sample
from tinygrad_llm.finetuning.tuner import Finetuner
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.nn.lora import without_adapters


@dataclass(frozen=True)
class AlignmentConfig(StyleConfig):
    """How the model answers.

    Args:
        max_new_tokens: the most tokens of an answer that the model gives
        answers: how many answers before and after training stand in the report
    """

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


class Aligned(Styled, Finetuner):
    """Nothing is dropped while it trains: its probabilities are compared with the frozen model's, or its own before."""

    config: AlignmentConfig

    def __init__(self, config: AlignmentConfig, run: Path):
        super().__init__(config, run)
        self.model.eval()

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
        return [said(self.tokenizer, answer, self.style) for answer in answers]
