"""How good answers are: the same as the expected one, like it, or good in the eyes of another model."""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence

from tinygrad_llm import hub, tokenizers
from tinygrad_llm.errors import UserError
from tinygrad_llm.evaluation.scoring import score
from tinygrad_llm.finetuning.prompts import Dialogue, encode, natural_style
from tinygrad_llm.formats import check_vocabulary, load_model
from tinygrad_llm.training import checkpoint

TIMEOUT = 120  # seconds

QUESTION = """You grade answers. Compare the answer with the reference, for the instruction that both are to follow.

Instruction:
{question}

Reference:
{reference}

Answer to grade:
{answer}

Reply with nothing but a whole number from 0, for useless, to 100, for as good as the reference or better."""


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L (Lin 2004, https://aclanthology.org/W04-1013): F1 of the words in the longest common subsequence, in
    lower case and without punctuation. 0 where either has no words."""
    a, b = (re.findall(r"[^\W_]+", text.lower()) for text in (answer, reference))
    row = [0] * (len(b) + 1)  # row[j]: the length for what was read of a, and the first j words of b
    for word in a:
        above, row = row, [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
    return 2 * row[-1] / (len(a) + len(b)) if a and b else 0.0


class Endpoint:
    """A model behind OpenAI's protocol gives 0 to 100 points. The key is in OPENAI_API_KEY, where one is needed.

    Raises UserError, in the constructor too, where it cannot be reached or does not answer as the protocol says.
    """

    unit = "points of 100"

    def __init__(self, url: str, model: str):
        self.url, self.model = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions", model
        self._ask("Reply with the number 1.")

    def __call__(self, dialogues: Sequence[Dialogue], answers: Sequence[str]) -> list[float | None]:
        """The points of each answer, None where the reply has no number from 0 to 100."""
        pairs = zip(dialogues, answers, strict=True)
        replies = [self._ask(QUESTION.format(question=d.question, reference=d.answer, answer=a)) for d, a in pairs]
        found = [re.search(r"(?<![\d.-])(100|\d?\d)(?!\.?\d)", reply) for reply in replies]
        return [float(points[1]) if points else None for points in found]

    def _ask(self, content: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        try:
            request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return json.load(response)["choices"][0]["message"]["content"] or ""
        except urllib.error.HTTPError as error:
            reason = " ".join(error.read(300).decode("utf-8", "replace").split())
            raise UserError(f"the judge at {self.url} refuses: {error.code} {error.reason}: {reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(f"the judge at {self.url} cannot be reached: {reason}; is it running?") from error
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"the judge at {self.url} does not answer as OpenAI's protocol says: {error!r}") from error


class Likelihood:
    """A local model prefers what it would rather say: the mean log-probability of an answer's tokens under it.

    Raises UserError where there is no such model.
    """

    unit = "nats per token"

    def __init__(self, source: str):
        path = checkpoint.find_model(hub.locate(source))
        self.model, self.tokenizer = load_model(path, quantized=True), tokenizers.load(path)
        check_vocabulary(self.model, self.tokenizer)

    def __call__(self, dialogues: Sequence[Dialogue], answers: Sequence[str]) -> list[float | None]:
        style = natural_style(self.tokenizer)
        pairs = zip(dialogues, answers, strict=True)
        encoded = [encode(self.tokenizer, dialogue.with_answer(answer), style) for dialogue, answer in pairs]
        found = score(self.model, [(e.ids[: e.start], e.ids[e.start :]) for e in encoded])
        return [float(one.log_probs.mean()) if one.log_probs.size else None for one in found]


def judge(name: str, model: str) -> Endpoint | Likelihood:
    """The judge that `name` means: an endpoint's URL, where `model` judges, or a model to load."""
    return Endpoint(name, model) if re.match(r"https?://", name) else Likelihood(name)
