"""The choice of the next token, by the logits (B, V) for B texts.

Each setting is a function from logits to logits, -inf for a token that it rules out. They are applied in Hugging Face's
order: repetition penalty, temperature, top-k, top-p, min-p.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises UserError for settings that make no sense.

    Args:
        temperature: below 1 likelier, above 1 more varied; 0 always takes the likeliest token
        top_k: draw among this many of the likeliest tokens
        top_p: draw among the fewest likeliest tokens whose probabilities together reach this
        min_p: draw among the tokens at least this many times as likely as the likeliest
        repetition_penalty: above 1, tokens that the text holds already become less likely; 1 does nothing
        seed: the same seed gives the same text
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < np.inf:
            raise UserError(f"temperature must be 0 (the likeliest token) or more, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p must be from 0 to 1, not {self.min_p}")
        if not 0 < self.repetition_penalty < np.inf:
            raise UserError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"seed must be a whole number from 0 on, not {self.seed}")

    def choose(
        self, logits: np.ndarray, drawings: Sequence[np.random.Generator], texts: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """A token for each row of the logits (B, V), drawn by that row's generator: (B,).

        `texts` are the rows' tokens so far, for the repetition penalty. Raises FloatingPointError for logits that are
        not numbers.
        """
        if not np.isfinite(logits.max(-1)).all():
            raise FloatingPointError("the model's logits are not finite: its weights are damaged, or it has diverged")
        if self.repetition_penalty != 1:
            logits = penalize_repetition(logits, texts, self.repetition_penalty)
        if self.temperature == 0:
            return logits.argmax(-1)
        # At most 0, and no temperature that float32 cannot hold: nothing overflows.
        logits = (logits - logits.max(-1, keepdims=True)) / min(max(self.temperature, 1e-30), 1e30)
        tokens = np.arange(logits.shape[1])
        for keep, setting in ((keep_top_k, self.top_k), (keep_top_p, self.top_p), (keep_min_p, self.min_p)):
            if setting is not None:
                logits = keep(logits, setting)
                kept = np.flatnonzero((logits > -np.inf).any(0))  # so few as a rule that the rest costs nothing
                logits, tokens = logits[:, kept], tokens[kept]
        return tokens[draw(logits, drawings)]


def penalize_repetition(logits: np.ndarray, texts: Sequence[Sequence[int]], penalty: float) -> np.ndarray:
    """Make the tokens that each row's text holds less likely: a positive logit is divided by the penalty, a negative
    one multiplied (CTRL, Keskar et al. 2019, as Hugging Face has it)."""
    penalized = logits.copy()
    for row, text in enumerate(texts):
        held = logits[row, text]
        penalized[row, text] = np.where(held < 0, held * penalty, held / penalty)
    return penalized


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """The k largest logits of each row, and those equal to the least of them."""
    k = min(k, logits.shape[-1])
    return np.where(logits < np.partition(logits, -k)[:, -k, None], -np.inf, logits)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """The fewest tokens, the likeliest, whose probabilities reach p (Holtzman et al. 2019), and those equal to
    the least of them."""
    if p == 1:
        return logits
    probabilities = _exp(logits)
    probabilities /= probabilities.sum(-1, keepdims=True)
    descending = np.sort(probabilities)[:, ::-1]
    count = (descending.cumsum(-1)[:, :-1] < p).sum(-1, keepdims=True)  # (B, 1): those before the last one kept
    return np.where(probabilities < np.take_along_axis(descending, count, -1), -np.inf, logits)


def keep_min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """The tokens whose probability is at least p times the largest (Nguyen et al. 2024)."""
    return np.where(_exp(logits) < p, -np.inf, logits)


def draw(logits: np.ndarray, drawings: Sequence[np.random.Generator]) -> np.ndarray:
    """A token of each row's softmax: the one on whose stretch of [0, 1) a uniform number of its generator falls."""
    ends = _exp(logits).astype(np.float64).cumsum(-1)
    ends /= ends[:, -1:]
    uniform = np.array([drawing.random() for drawing in drawings])
    return (ends <= uniform[:, None]).sum(-1)


def _exp(logits: np.ndarray) -> np.ndarray:
    """Probabilities in units of the largest."""
    return np.exp(logits - logits.max(-1, keepdims=True))
