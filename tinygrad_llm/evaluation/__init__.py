"""Evaluation: perplexity, LAMBADA, BLiMP, multiple choice, and the adapter to EleutherAI's harness."""

from tinygrad_llm.evaluation.runner import Report, evaluate
from tinygrad_llm.evaluation.scoring import Score, log_likelihoods, score
from tinygrad_llm.evaluation.tasks import Blimp, Lambada, Metric, MultipleChoice, Perplexity

__all__ = [
    "Blimp",
    "Lambada",
    "Metric",
    "MultipleChoice",
    "Perplexity",
    "Report",
    "Score",
    "evaluate",
    "log_likelihoods",
    "score",
]
