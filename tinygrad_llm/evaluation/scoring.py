"""How probable a model finds a continuation after a context: the one measure that every task rests on.

The log-likelihood of tokens t_1 ... t_n after a context c is sum_i log p(t_i | c, t_1 ... t_{i-1}). Pairs are cut into
tokens as EleutherAI's harness does it (Biderman et al. 2024, https://arxiv.org/abs/2405.14782).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.data.batches import MOST_TOKENS, by_length
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.tokenizers import Tokenizer

BATCH_SIZE = 16
HEAD_ROWS = 256  # logits are made so many rows at a time: a vocabulary of 128,000 takes 131 MB

Request = tuple[Sequence[int], Sequence[int]]  # the tokens of a context, and those of its continuation


class Score(NamedTuple):
    """A continuation's log_probs, natural logarithms, float64 (n,), and whether greedy decoding would write it."""

    log_probs: np.ndarray
    is_greedy: bool


def log_likelihoods(
    model: LanguageModel,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    batch_size: int = BATCH_SIZE,
    max_length: int | None = None,
) -> list[tuple[float, bool]]:
    """The log-likelihood of each pair's continuation after its context, and whether greedy decoding would write it.

    See `score` for the settings and errors.
    """
    requests = [encode_pair(tokenizer, *pair) for pair in pairs]
    return [(float(s.log_probs.sum()), s.is_greedy) for s in score(model, requests, batch_size, max_length)]


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """The tokens of a context and its continuation, cut as one text; spaces that end the context go to the other.

    An empty context is the token that begins texts; where a vocabulary has none, the continuation's first token,
    which then has no probability.
    """
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    if not stripped:
        ids, start = tokenizer.encode(continuation).tolist(), start_token(tokenizer)
        return (ids[:1], ids[1:]) if start is None or ids[:1] == [start] else ([start], ids)
    ids = encode(tokenizer, stripped)
    return ids, encode(tokenizer, stripped + continuation)[len(ids) :]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text, after the one that begins it where the model wants that."""
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return bos + tokenizer.encode(text).tolist()


def start_token(tokenizer: Tokenizer) -> int | None:
    """The token that stands before a text: the one that begins texts, else one that ends them, None without either."""
    if tokenizer.bos_id is not None:
        return tokenizer.bos_id
    names = [tokenizer.roles.get(role) for role in ("bos_token", "eos_token")]
    ids = [tokenizer.special_tokens[name] for name in names if name in tokenizer.special_tokens]
    return ids[0] if ids else min(tokenizer.eos_ids, default=None)


def score(
    model: LanguageModel, requests: Sequence[Request], batch_size: int = BATCH_SIZE, max_length: int | None = None
) -> list[Score]:
    """Score each request's continuation after its context, in their order.

    A batch holds sequences of like length, padded on the right, where causality keeps the padding from what is scored.
    Only scored positions meet the head. Of a sequence longer than `max_length` (the model's block unless given) the
    beginning is left out. Raises UserError for an empty context, and settings out of range.
    """
    max_length = checked_length(model, max_length)
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    for i, (context, _) in enumerate(requests):
        if not len(context):
            raise UserError(f"request {i} has no context: a token's probability depends on the one before it")
    sequences = [np.array([*context, *continuation])[-max_length - 1 :] for context, continuation in requests]
    counts = [min(len(continuation), max_length) for _, continuation in requests]
    scores: list = [None] * len(requests)
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            for batch in by_length([len(sequence) - 1 for sequence in sequences], MOST_TOKENS, batch_size):
                found = _score([sequences[i] for i in batch], [counts[i] for i in batch], model)
                for i, one in zip(batch, found, strict=True):
                    scores[i] = one
    finally:
        model.train(was_training)
    return scores


def groups(asked: Iterable[list[Request]]) -> Iterator[list[list[Request]]]:
    """Items' requests, some MOST_TOKENS of them at a time, which take as long as one may wait for a word of progress.
    Sequences of like length are sought within a group."""
    group, tokens = [], 0
    for requests in asked:
        group.append(requests)
        tokens += sum(len(context) + len(continuation) for context, continuation in requests)
        if tokens >= MOST_TOKENS:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def checked_length(model: LanguageModel, max_length: int | None) -> int:
    """`max_length`, or the model's block for None. Raises UserError where it is none that the model can read."""
    block_size = model.config.block_size
    if max_length is None:
        return block_size
    if not 1 <= max_length <= block_size:
        raise UserError(f"max_length must be from 1 to {block_size}, the model's block, not {max_length}")
    return max_length


def _score(sequences: list[np.ndarray], counts: list[int], model: LanguageModel) -> list[Score]:
    """Scores of each sequence's last tokens, `counts` of them; the sequences go from long to short."""
    ids = np.zeros((len(sequences), max(1, len(sequences[0]) - 1)), np.int64)  # (B, T)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence) - 1] = sequence[:-1]
    h = model.hidden(ids).data  # (B, T, C)
    scored = [h[b, len(s) - 1 - n : len(s) - 1] for b, (s, n) in enumerate(zip(sequences, counts, strict=True))]
    targets = [sequence[len(sequence) - n :] for sequence, n in zip(sequences, counts, strict=True)]
    log_probs, hits = _head(np.concatenate(scored), np.concatenate(targets), model)
    ends = np.cumsum(counts)[:-1]
    return [Score(p, bool(hit.all())) for p, hit in zip(np.split(log_probs, ends), np.split(hits, ends), strict=True)]


def _head(h: np.ndarray, targets: np.ndarray, model: LanguageModel) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability of each target (N,) after what `hidden` gives (N, C), and whether it is the likeliest."""
    log_probs, hits = np.empty(len(h)), np.empty(len(h), bool)
    for start in range(0, len(h), HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        logits = model.head(Tensor(h[rows]))  # (HEAD_ROWS, V)
        log_probs[rows] = -to_device(F.cross_entropy(logits, targets[rows], reduction="none").data, "cpu")
        hits[rows] = to_device(logits.data.argmax(-1), "cpu") == targets[rows]
    return log_probs, hits
