"""Heads that make something else of a language model than the next token.

Shapes: B sequences of T tokens of C numbers, K classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.models.language_model import LanguageModel
from tinygrad_llm.nn import Linear, Module, initial
from tinygrad_llm.tensor import Tensor

Pooling = Literal["last", "mean"]


class SequenceClassifier(Module):
    """Gives a text a score for each class, from what a language model, the trunk, makes of its last token or, with
    pooling "mean", of all of them.

    With one label it is a reward model: the score is the reward. The head `score` has no bias, as transformers' has
    none; its weight starts normal with standard deviation 0.02. The trunk's own head is let go.
    """

    def __init__(self, trunk: LanguageModel, labels: Sequence[str], pooling: Pooling = "last"):
        trunk.lm_head, trunk.config = None, replace(trunk.config, tie_weights=True)
        self.trunk, self.labels, self.pooling = trunk, list(labels), pooling
        self.score = Linear(trunk.config.n_embd, len(self.labels), bias=False)
        self.score.weight.data = initial(self.score.weight.shape, partial(random.default.normal, 0, 0.02))
        self.score.to(next(parameter.dtype for _, parameter in trunk.named_parameters()))

    def pool(self, ids, lengths) -> Tensor:
        """One vector a text (B, C), for token ids (B, T) of which the first `lengths` (B,) of a row are the text."""
        h, lengths = self.trunk.hidden(ids), np.asarray(lengths)  # (B, T, C)
        if self.pooling == "last":
            return h[to_device(np.arange(len(lengths)), h.device), to_device(lengths - 1, h.device)]
        share = np.where(np.arange(h.size(1)) < lengths[:, None], 1 / lengths[:, None], 0)  # (B, T)
        return (h * to_device(share[..., None].astype(h.dtype), h.device)).sum(1)

    def forward(self, ids, lengths) -> Tensor:
        """Logits (B, K); padding, which stands on the right, changes nothing."""
        return self.score(self.pool(ids, lengths))


def freeze(trunk: LanguageModel, last_blocks: int = 0) -> None:
    """Train nothing of a model but its last so many blocks and, with any, its final norm.

    Raises UserError for more blocks than there are.
    """
    if last_blocks > len(trunk.blocks):
        raise UserError(f"the last {last_blocks} blocks are more than the model's {len(trunk.blocks)}")
    trunk.requires_grad_(False)
    if last_blocks:
        for module in (*trunk.blocks[-last_blocks:], trunk.final_norm):
            module.requires_grad_()
