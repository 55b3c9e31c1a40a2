"""Tokens that continue prompts: a prompt is read in one pass, then each step reads one token, past ones in a cache."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.autograd import no_grad
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.tensor import Tensor

if TYPE_CHECKING:
    from tinygrad_llm.models import LanguageModel


def generate(
    model: "LanguageModel",
    ids: Sequence[int],
    max_new_tokens: int,
    *,
    stop_tokens: Iterable[int] = (),
    use_cache: bool = True,
    **sampling,
) -> Iterator[int]:
    """Yield the tokens that continue `ids`, up to max_new_tokens of them or until a stop token, which is not yielded.

    How they are chosen is up to the fields of `Sampling`, such as `temperature=0.8, top_p=0.9, seed=1`; without a seed,
    to the generator that `manual_seed` sets. The cache of past tokens gives the same as recomputing them
    (`use_cache=False`). Once the block is full, its last block_size tokens are the context, and since that moves every
    position, they are recomputed for each token.

    Raises UserError for an empty prompt, one longer than the block, and settings that make no sense.
    """
    decoding = Decoding(model, [ids], max_new_tokens, Sampling(**sampling), stop_tokens, use_cache)
    return (token for step in decoding for token in step.values())


def generate_batch(
    model: "LanguageModel",
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop_tokens: Iterable[int] = (),
    **sampling,
) -> list[list[int]]:
    """The tokens that continue each of the prompts, which may differ in length: `generate`'s, all rows at a time.

    Equal prompts are several samples of one, read once. With a seed, row i draws by the i-th stream of that seed, and
    row 0 as `generate` does. Raises UserError as `generate` does, and for no prompts.
    """
    decoding = Decoding(model, prompts, max_new_tokens, Sampling(**sampling), stop_tokens)
    for _ in decoding:
        pass
    return decoding.tokens


class Decoding:
    """Prompts that are continued together. Iterating gives the new tokens of each step: {row: token}.

    tokens          each row's new tokens so far
    finish_reasons  each row's: "stop" for a stop token or a call of `end`, "length" for max_new_tokens, None till then

    A row that has ended computes along until all have, and gives no tokens. `context` is one that has read other texts
    before: what these prompts begin with is not read again. `stream` is the first row's stream of the seed. For the
    rest, and what is raised, see `generate`.
    """

    def __init__(
        self,
        model: "LanguageModel",
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        stop_tokens: Iterable[int] = (),
        use_cache: bool = True,
        context: "Context | None" = None,
        stream: int = 0,
    ):
        self.model, self.max_new_tokens, self.sampling, self.stream = model, max_new_tokens, sampling, stream
        self.block_size = model.config.block_size if context is None else context.capacity
        self.prompts = [[int(token) for token in prompt] for prompt in prompts]
        lengths = [len(prompt) for prompt in self.prompts]
        if not lengths:
            raise UserError("there is no prompt to continue")
        if min(lengths) == 0:
            raise UserError("the prompt is empty: a model continues at least one token")
        if max(lengths) > self.block_size:
            raise UserError(f"the prompt has {max(lengths)} tokens and the model's block {self.block_size}: shorten it")
        if max_new_tokens < 0:
            raise UserError(f"max_new_tokens must not be negative, as {max_new_tokens} is")
        self.stop_tokens = frozenset(stop_tokens)
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.finish_reasons: list[str | None] = [None] * len(prompts)
        capacity = min(max(lengths) + max_new_tokens, self.block_size) if use_cache else 0
        self.context = context or Context(model, len(prompts), capacity)

    def end(self, row: int, reason: str = "stop") -> None:
        """No more tokens for this row."""
        self.finish_reasons[row] = self.finish_reasons[row] or reason

    def __iter__(self) -> Iterator[dict[int, int]]:
        was_training = self.model.training
        self.model.eval()
        try:
            yield from self._steps()
        finally:
            self.model.train(was_training)

    def _steps(self) -> Iterator[dict[int, int]]:
        seed, rows = self.sampling.seed, range(len(self.prompts))
        drawings = [random.default if seed is None else random.generator(seed, self.stream + row) for row in rows]
        longest = max(map(len, self.prompts))
        padding = np.array([longest - len(prompt) for prompt in self.prompts])  # on the left
        ids = np.array([[0] * (longest - len(prompt)) + prompt for prompt in self.prompts])  # (B, T)
        texts = [list(prompt) for prompt in self.prompts]
        for _ in range(self.max_new_tokens):
            logits = self.context.read(ids, padding)
            chosen = self.sampling.choose(logits, drawings, texts)
            step = {}
            for row, token in enumerate(chosen.tolist()):
                texts[row].append(token)
                if token in self.stop_tokens:
                    self.end(row)
                if self.finish_reasons[row] is None:
                    self.tokens[row].append(token)
                    step[row] = token
            if step:
                yield step
            if all(self.finish_reasons):
                return
            ids = np.concatenate([ids, chosen[:, None]], 1)
            excess = max(0, ids.shape[1] - self.block_size)
            ids, padding = ids[:, excess:], np.maximum(padding - excess, 0)
        for row in rows:
            self.end(row, "length")


class Context:
    """The tokens that a model has read last, and the cache of them, so that what follows them costs itself alone.

    batch     rows
    capacity  the most tokens that a row may have; 0 to keep nothing and read everything again
    """

    def __init__(self, model: "LanguageModel", batch: int, capacity: int):
        self.model, self.capacity = model, capacity
        self.cache = model.new_cache(batch, capacity) if capacity else None
        self.forget()

    def forget(self) -> None:
        """Read everything again from now on."""
        self.ids = self.padding = np.zeros((0, 0), int)

    def read(self, ids: np.ndarray, padding: np.ndarray) -> np.ndarray:
        """The logits (B, V) for what follows ids (B, T), of which the first padding (B,) of a row stand for nothing.

        What the ids begin with is taken from the cache, as far as it is what was read last.
        """
        past = self._past(ids, padding)
        self.forget()  # an interrupt leaves layers that have read different lengths
        with no_grad():
            if self.cache:
                self.cache.truncate(past)
                self.cache.padding = padding if padding.any() else None
            if self.cache and past == 0 and len(ids) > 1 and (ids == ids[0]).all() and not padding.any():
                h = self._read_once(ids)
            else:
                h = self.model.hidden(ids[:, past:], self.cache)
            logits = to_device(self.model.head(h[:, -1]).data, "cpu")
        self.ids, self.padding = ids, padding
        return logits

    def _past(self, ids: np.ndarray, padding: np.ndarray) -> int:
        """How many of the ids need not be read again; at least the last one must, for its logits."""
        if self.cache is None or not np.array_equal(padding, self.padding):
            return 0
        most = min(self.ids.shape[1], ids.shape[1] - 1)
        differs = (self.ids[:, :most] != ids[:, :most]).any(0)
        return int(differs.argmax()) if differs.any() else most

    def _read_once(self, ids: np.ndarray) -> Tensor:
        """`hidden` of equal rows: one is read, and all share what it leaves in the cache."""
        one = self.model.new_cache(1, ids.shape[1])
        h = self.model.hidden(ids[:1], one)
        for layer, read in zip(self.cache.layers, one.layers, strict=True):
            layer.append(Tensor(read.keys), Tensor(read.values))  # (1, H, T, D) to each of the B rows
        return h.expand(len(ids), *h.shape[1:])
