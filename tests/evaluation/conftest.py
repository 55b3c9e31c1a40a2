"""Small models and a plain definition of a log-likelihood, for all tests of evaluation."""

import numpy as np
import pytest

from tinygrad_llm import manual_seed, tokenizers
from tinygrad_llm.models import GPT, GPTConfig

TEXT = "It is a far, far better thing that I do, than I have ever done;\nit is a far, far better rest that I go to. "


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-pair encoding with a token that ends texts."""
    tokenizer = tokenizers.train("bpe", TEXT * 3, vocab_size=300)
    assert len(tokenizer.eos_ids) == 1
    return tokenizer


@pytest.fixture(scope="session")
def model(tokenizer):
    """A GPT whose guesses differ widely: random weights, larger than a new model's."""
    manual_seed(1)
    shape = {"block_size": 48, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.5}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape))
    for parameter in model.parameters():
        parameter.data += np.random.default_rng(2).normal(0, 0.3, parameter.shape).astype(parameter.dtype)
    words = [i for i, token in tokenizer.tokens.items() if token.startswith(b" ") and token.strip()]
    model.wte.weight.data[words] += 4 * model.ln_f.bias.data  # beginnings of words are likelier anywhere
    return model.double()


@pytest.fixture(scope="session")
def passages(model, tokenizer) -> list[str]:
    """Texts of which every third ends in the word that the model would write, and one is longer than its block."""
    draw, texts = np.random.default_rng(0), [(TEXT * 2).strip()]
    for i in range(30):
        text = " ".join(draw.choice(TEXT.split(), draw.integers(2, 12)))
        written = model.generate(tokenizer.encode(text), 1, temperature=0)
        texts.append(text if i % 3 else text + tokenizer.decode(list(written)))
    return texts


@pytest.fixture(scope="session")
def plain():
    """The definition: each token's log-probability after all before it, one sequence at a time, from all logits."""

    def log_probs(model, context, continuation) -> tuple[np.ndarray, bool]:
        model.eval()
        tokens = [*context, *continuation]
        logits = model(np.array([tokens[:-1]])).data[0, len(context) - 1 :]
        normed = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        is_greedy = (logits.argmax(-1) == continuation).all()
        return normed[np.arange(len(continuation)), continuation], bool(is_greedy)

    return log_probs
