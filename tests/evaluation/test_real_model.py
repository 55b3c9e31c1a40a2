"""A real model on real items, beside what transformers gives for the same weights."""

import numpy as np

from tinygrad_llm import tokenizers
from tinygrad_llm.evaluation import Lambada, log_likelihoods
from tinygrad_llm.formats import load_model

# SmolLM2-135M-Instruct.Q4_1.gguf made float32, the first passages of LAMBADA: transformers 5.23 with torch 2.13.
LOG_LIKELIHOODS = [-5.028374, -5.184115, -0.710644, -0.246100, -2.983652, -10.343840]
IS_GREEDY = [False, False, True, True, False, False]


def test_last_words_of_lambada(smollm2, data_dir):
    model, tokenizer = load_model(smollm2, quantized=True), tokenizers.load(smollm2)
    task = Lambada(data_dir / "lambada" / "lambada_test.jsonl", limit=6)
    found = log_likelihoods(model, tokenizer, [pair for item in task.items for pair in task.pairs(item)])
    np.testing.assert_allclose([log_likelihood for log_likelihood, _ in found], LOG_LIKELIHOODS, atol=2e-4)
    assert [is_greedy for _, is_greedy in found] == IS_GREEDY
