"""A conversation with a model, by its own chat template."""

from collections.abc import Iterator

from tinygrad_llm.errors import UserError
from tinygrad_llm.generation.decoding import Context, Decoding
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.generation.text import Text
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.tokenizers import Tokenizer


class Conversation:
    """What a user and a model say in turn, and the context of the model, which reads each turn once.

    turns          the messages, the user's first: [{"role": "user", "content": "..."}, {"role": "assistant", ...}, ...]
    system         what stands before them all, and is never dropped
    finish_reason  why the last answer ended: "stop", "length" for too many tokens, None where its reader left

    At most `context_size` tokens are in the context, and never more than the model's block. Raises UserError for a
    tokenizer without a chat template.
    """

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, system: str | None = None, context_size: int | None = None
    ):
        if tokenizer.chat_template is None:
            raise UserError("the model has no chat template, so it was not made for conversations")
        block_size = model.config.block_size
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.context = Context(model, 1, block_size if context_size is None else min(context_size, block_size))
        self.reset()

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns: list[dict[str, str]] = []
        self.finish_reason: str | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The system text, where there is one, and the turns."""
        return self._with_system(self.turns)

    def ask(self, content: str, max_new_tokens: int) -> list[dict[str, str]]:
        """Add the user's message, and return the oldest turns, dropped where the context has too little room for it
        and an answer. Raises UserError for a message that is too long all by itself."""
        capacity = self.context.capacity
        room = min(max_new_tokens, capacity // 2)
        turns, dropped = [*self.turns, {"role": "user", "content": content}], []
        while len(turns) > 1 and len(self._encode(turns)) + room > capacity:
            turns, dropped = turns[2:], dropped + turns[:2]  # a question and its answer
        if (length := len(self._encode(turns))) >= capacity:
            raise UserError(
                f"the message makes {length} tokens with all around it; the context has {capacity}: shorten it"
            )
        self.turns = turns
        return dropped

    def answer(self, max_new_tokens: int, sampling: Sampling) -> Iterator[str]:
        """Yield the model's answer, piece by piece. A reader who leaves keeps in the conversation what was said."""
        ids = self._encode(self.turns)
        room = min(max_new_tokens, self.context.capacity - len(ids))
        stream = len(self.turns)  # a seed gives each turn numbers of its own
        decoding = Decoding(
            self.model, [ids], room, sampling, self.tokenizer.eos_ids, context=self.context, stream=stream
        )
        text = Text(self.tokenizer)
        try:
            for step in decoding:
                yield text.add(step[0])
            yield text.finish()
        finally:
            self.finish_reason = decoding.finish_reasons[0]
            if text.text or self.finish_reason:
                self.turns.append({"role": "assistant", "content": text.text})
            else:
                self.turns.pop()

    def _encode(self, turns: list[dict[str, str]]) -> list[int]:
        return self.tokenizer.apply_chat_template(self._with_system(turns))

    def _with_system(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}, *turns] if self.system else turns
