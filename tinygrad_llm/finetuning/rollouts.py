"""Answers drawn from a model, as arrays, and how probable models find them. Shapes: N answers, T tokens."""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from tinygrad_llm.autograd import no_grad
from tinygrad_llm.data.batches import MOST_TOKENS
from tinygrad_llm.devices import to_device
from tinygrad_llm.finetuning.data import Example, collate
from tinygrad_llm.finetuning.objectives import IGNORE, kl_estimate
from tinygrad_llm.generation import Decoding, Sampling
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.tensor import Tensor

TOGETHER = 64  # answers that are drawn at a time


def sample(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    eos_ids: Collection[int] = (),
    seed: int | None = None,
    temperature: float = 1.0,
) -> list[list[int]]:
    """An answer to each prompt, of up to max_new_tokens, with the token that ended it, one of eos_ids, at its end.

    Without a seed, the generator that `manual_seed` sets draws them.
    """
    answers = []
    for i in range(0, len(prompts), TOGETHER):
        sampling = Sampling(temperature=temperature, seed=seed)
        decoding = Decoding(model, prompts[i : i + TOGETHER], max_new_tokens, sampling, stream=i)
        for step in decoding:
            for row, token in step.items():
                if token in eos_ids:
                    decoding.end(row)
        answers += decoding.tokens
    return answers


def arrays(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """ids and labels (N, T) of the answers after their prompts; the labels of the prompts are IGNORE."""
    pairs = zip(prompts, answers, strict=True)
    return collate([Example(prompt + answer, [IGNORE] * len(prompt) + answer) for prompt, answer in pairs])


def frozen(
    function: Callable[[LanguageModel, np.ndarray, np.ndarray], Tensor], model: LanguageModel, ids, labels
) -> np.ndarray:
    """What `function` makes of ids and labels (N, T), some rows at a time, of a model that is not trained now."""
    was_training, size = model.training, max(1, MOST_TOKENS // ids.shape[1])
    model.eval()
    with no_grad():
        rows = [slice(i, i + size) for i in range(0, len(ids), size)]
        found = [to_device(function(model, ids[part], labels[part]).data, "cpu") for part in rows]
    model.train(was_training)
    return np.concatenate(found)


def divergence(log_p: np.ndarray, reference_log_p: np.ndarray, labels: np.ndarray) -> float:
    """The estimate of KL(p || p_ref), nats per token, from log-probabilities (N, T) of answers that p has drawn."""
    return float(kl_estimate(Tensor(log_p), reference_log_p).data[labels != IGNORE].mean())
