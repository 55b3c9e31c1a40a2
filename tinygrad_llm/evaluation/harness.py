"""EleutherAI's evaluation harness on our models: an adapter that its tasks take for a model of theirs.

>>> import lm_eval
>>> from tinygrad_llm.evaluation.harness import HarnessModel
>>> lm_eval.simple_evaluate(model=HarnessModel("runs/mine"), tasks=["lambada_openai"], limit=100)

Once this file is imported, `simple_evaluate(model="tinygrad-llm", model_args="pretrained=runs/mine")` finds it too.
"""

import os
from itertools import groupby

from tinygrad_llm import tokenizers
from tinygrad_llm.errors import UserError
from tinygrad_llm.evaluation.scoring import BATCH_SIZE, Request, Score, checked_length, groups, score, start_token
from tinygrad_llm.formats import load_model
from tinygrad_llm.generation.decoding import Decoding
from tinygrad_llm.generation.sampling import Sampling
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.tokenizers import Tokenizer
from tinygrad_llm.tokenizers.chat import render

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    raise UserError(f"the harness is not whole ({error}): pip install 'tinygrad-llm[eval]'") from error


@register_model("tinygrad-llm")
class HarnessModel(TemplateLM):
    """A model as the harness wants it.

    pretrained    whatever `load_model` opens, or a model of ours, which needs its `tokenizer` too
    max_length    tokens that the model sees at most, its block unless given; longer texts lose their beginning
    max_gen_toks  how many tokens to generate where the task does not say
    """

    tokenizer_name = ""  # a property that refuses, in the base

    def __init__(
        self,
        pretrained: LanguageModel | str | os.PathLike,
        tokenizer: Tokenizer | None = None,
        batch_size: int | str = BATCH_SIZE,
        max_length: int | None = None,
        max_gen_toks: int = 256,
    ):
        super().__init__()
        loaded = isinstance(pretrained, LanguageModel)
        if loaded and tokenizer is None:
            raise UserError("a model needs its tokenizer to be evaluated: give both")
        self.model = pretrained if loaded else load_model(pretrained)
        self.tokenizer = tokenizer or tokenizers.load(pretrained)
        self.tokenizer_name = type(pretrained).__name__ if loaded else str(pretrained).replace("/", "__")
        self.batch_size = int(batch_size)
        self.max_length = checked_length(self.model, max_length)
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        start = start_token(self.tokenizer)
        if start is None:
            raise UserError("the harness needs a token that begins or ends texts, and this vocabulary has none")
        return start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        """The tokens of a text, in which a special token's name is that token, as chat templates want it."""
        ids, bos = self.tokenizer.encode(string, allow_special=True).tolist(), self.tokenizer.bos_id
        return ids if add_special_tokens is False or bos is None or ids[:1] == [bos] else [bos, *ids]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation; without a prompt to generate, it ends with the last message, to be continued."""
        text, _ = render(self.tokenizer.chat_template, chat_history, self.tokenizer.roles, (), add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        sums = []
        for request in requests:
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            scores = self._score([make_disjoint_window(window) for window in windows], disable_tqdm)
            sums.append(float(sum(s.log_probs.sum() for s in scores)))
        return sums

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **_) -> list[tuple[float, bool]]:
        scores = self._score([(context, continuation) for _, context, continuation in requests], disable_tqdm)
        return [(float(s.log_probs.sum()), s.is_greedy) for s in scores]

    def _score(self, requests: list[Request], disable_tqdm: bool) -> list[Score]:
        scores, bar = [], tqdm(total=len(requests), desc="log-likelihoods", disable=disable_tqdm)
        for group in groups([request] for request in requests):
            scores += score(self.model, [request for [request] in group], self.batch_size, self.max_length)
            bar.update(len(group))
        bar.close()
        return scores

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        texts, bar = [], tqdm(total=len(requests), desc="texts", disable=disable_tqdm)
        for settings, alike in groupby([request.args for request in requests], key=lambda args: args[1]):
            contexts = [context for context, _ in alike]
            for start in range(0, len(contexts), self.batch_size):
                texts += self._generate(contexts[start : start + self.batch_size], settings)
                bar.update(len(texts) - bar.n)
        bar.close()
        return texts

    def _generate(self, contexts: list[str], settings: dict) -> list[str]:
        """What the model writes after each context, up to the first of the settings' stop strings."""
        s = normalize_gen_kwargs(settings, self.max_gen_toks)
        room = self.max_length - s["max_gen_toks"]
        if room < 1:
            raise UserError(f"{s['max_gen_toks']} tokens to generate leave no room for a context in {self.max_length}")
        sampling = Sampling(
            temperature=s.get("temperature", 1.0 if s["do_sample"] else 0.0),
            **{name: s[name] for name in ("top_k", "top_p", "min_p", "repetition_penalty", "seed") if name in s},
        )
        prompts = [(self.tok_encode(context) or [self.prefix_token_id])[-room:] for context in contexts]
        decoding = Decoding(self.model, prompts, s["max_gen_toks"], sampling, self.tokenizer.eos_ids)
        for step in decoding:
            for row in step:
                text = self.tokenizer.decode(decoding.tokens[row])
                if any(stop and stop in text for stop in s["until"]):
                    decoding.end(row)
        texts = [self.tokenizer.decode(tokens) for tokens in decoding.tokens]
        return [postprocess_generated_text(text, s["until"], None) for text in texts]
