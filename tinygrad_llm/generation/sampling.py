"""Text from a model, one token at a time."""

from collections.abc import Iterator, Sequence

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm import random
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import GPT


def generate(
    model: GPT,
    ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: int | None = None,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield the tokens that continue `ids`, up to max_new_tokens of them or until `stop`, which is not yielded.

    temperature 0 takes the likeliest token; otherwise one is drawn from softmax(logits / temperature), among the
    `top_k` likeliest and the fewest likeliest whose probabilities reach `top_p` (Holtzman et al. 2019). `seed` gives
    the drawing a generator of its own. The keys and values of past tokens are kept in a cache, which gives the same
    as recomputing them (`use_cache=False`). Once the block is full, its last block_size tokens are the context, and
    since that moves every position, they are recomputed for each token.

    Raises UserError for an empty prompt, one longer than the block, and settings that make no sense.
    """
    tokens, block_size = list(map(int, ids)), model.config.block_size
    if not tokens:
        raise UserError("the prompt is empty: a model continues at least one token")
    if len(tokens) > block_size:
        raise UserError(f"the prompt has {len(tokens)} tokens and the model's block {block_size}: shorten it")
    _check(temperature, top_k, top_p, max_new_tokens)
    return _tokens(model, tokens, max_new_tokens, temperature, top_k, top_p, seed, stop, use_cache)


def _tokens(model, tokens, max_new_tokens, temperature, top_k, top_p, seed, stop, use_cache) -> Iterator[int]:
    drawing = random.default if seed is None else random.generator(seed)
    cache, block_size = model.new_cache(1), model.config.block_size
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            with no_grad():
                if use_cache and len(tokens) <= block_size:
                    h = model.hidden(np.array([tokens[cache.length :]]), cache)
                else:
                    h = model.hidden(np.array([tokens[-block_size:]]))
                logits = F.linear(h[0, -1], model.head_weight).data
            token = sample(logits, drawing, temperature, top_k, top_p)
            if token == stop:
                return
            tokens.append(token)
            yield token
    finally:
        model.train(was_training)


def sample(
    logits: np.ndarray,
    drawing: np.random.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """A token drawn by its logits (V,); see `generate` for the settings."""
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[:top_k]  # likeliest first
    scores = logits[order].astype(np.float64) / temperature
    p = np.exp(scores - scores[0])
    p /= p.sum()
    if top_p is not None:
        p = p[: np.searchsorted(p.cumsum(), top_p) + 1]
        p /= p.sum()
    return int(order[drawing.choice(len(p), p=p)])


def _check(temperature: float, top_k: int | None, top_p: float | None, max_new_tokens: int) -> None:
    if temperature < 0:
        raise UserError(f"temperature must be 0 (the likeliest token) or more, not {temperature}")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, not {top_p}")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens must not be negative, as {max_new_tokens} is")
