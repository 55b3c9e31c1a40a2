"""What alignment minimizes: preferences (DPO), a reward model, and reinforcement learning (PPO, GRPO).

Each is a few lines of Tensor arithmetic on the log-probabilities of tokens or of whole answers; the derivatives are
those of the operations, and the docstrings say what they come to. Arrays are constants: nothing flows into a reference
model, an old policy or an advantage.

Shapes: B sequences of T tokens; sequence sums (B,); numbers for each token (B, T), with a mask (B, T) that is 1 on the
tokens of the answer.
"""

import numpy as np

from tinygrad_llm import functional as F
from tinygrad_llm.devices import to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.models import LanguageModel
from tinygrad_llm.tensor import Tensor

IGNORE = -100  # the label of a token that does not count


def token_log_probabilities(model: LanguageModel, ids, labels) -> Tensor:
    """log p(label | what stands before it), for ids and labels (B, T): (B, T), 0 where the label is IGNORE."""
    return -model.loss(ids, labels, reduction="none", ignore_index=IGNORE).reshape(*np.shape(labels))


def sequence_log_probabilities(model: LanguageModel, ids, labels) -> Tensor:
    """The log-probability of all of a row's labels (B, T) together: (B,)."""
    return token_log_probabilities(model, ids, labels).sum(-1)


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: np.ndarray,
    reference_rejected: np.ndarray,
    beta: float = 0.1,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
    lengths: tuple[np.ndarray, np.ndarray] | None = None,
) -> Tensor:
    """Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7): (B,).

    From the log-probabilities (B,) of the answers under the policy and the reference model, with the log-ratios
    r = log p - log p_ref and the margin h = r_chosen - r_rejected,

        sigmoid  -(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h), with label smoothing s (Mitchell 2023);
                 its gradient with respect to h is -beta (1 - s - sigmoid(beta h)): a pair that is right already hardly
                 pulls
        ipo      (h - 1 / (2 beta))^2 (Azar et al. 2024, equation 17), with each r divided by its answer's length
        hinge    max(0, 1 - beta h) (Zhao et al. 2023)

    Where policy and reference are equal, h = 0 and the sigmoid loss is log 2. `lengths` are the answers' numbers of
    tokens, (B,) each, for ipo. Raises UserError for another loss, and for smoothing or lengths where they mean nothing.
    """
    if loss not in ("sigmoid", "ipo", "hinge"):
        raise UserError(f"the loss of DPO must be sigmoid, ipo or hinge, not {loss!r}")
    if not 0 <= label_smoothing < 0.5 or (label_smoothing and loss != "sigmoid"):
        raise UserError(f"label_smoothing must be from 0 to below 0.5, and is sigmoid's alone, not {label_smoothing}")
    reference_chosen, reference_rejected = constants(chosen, reference_chosen, reference_rejected)
    r_chosen, r_rejected = chosen - reference_chosen, rejected - reference_rejected
    if loss == "ipo":
        if lengths is None:
            raise UserError("ipo needs the lengths of the answers: it compares log-probabilities per token")
        lengths = constants(chosen, *lengths)
        return (r_chosen / lengths[0] - r_rejected / lengths[1] - 1 / (2 * beta)) ** 2
    h = beta * (r_chosen - r_rejected)
    if loss == "hinge":
        return (1 - h).relu()
    return -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: np.ndarray | float = 0.0) -> Tensor:
    """The loss of a reward model on pairs of rewards (B,): -log sigmoid(chosen - rejected - margin), (B,).

    That is the negative log-likelihood that the chosen answer wins, if p = sigmoid(difference of rewards) (Bradley &
    Terry 1952). Its gradient with respect to the difference d is sigmoid(d) - 1.
    """
    return -F.logsigmoid(chosen - rejected - margin)


def advantages(rewards, values, mask, gamma: float = 1.0, lam: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Generalized advantage estimation (Schulman et al. 2016, https://arxiv.org/abs/1506.02438, equation 16).

    With delta_t = r_t + gamma V_{t+1} - V_t, where V is 0 after the last token, A_t = sum_l (gamma lam)^l delta_{t+l},
    computed backwards as A_t = delta_t + gamma lam A_{t+1}. All arrays are (B, T); the mask is 1 on the answer, one
    stretch in each row. Returns A, and the returns A + V that the values are trained towards: 0 outside the answer.
    """
    rewards, values, mask = (np.asarray(x, np.float64) for x in (rewards, values, mask))
    result, later, later_value = np.zeros_like(values), 0.0, 0.0
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * later_value - values[:, t]
        result[:, t] = (delta + gamma * lam * later) * mask[:, t]
        later, later_value = result[:, t], values[:, t] * mask[:, t]
    return result, (result + values) * mask


def normalized(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """x (B, T) with mean 0 and standard deviation 1 over the mask, and 0 outside it."""
    inside = x[mask.astype(bool)]
    return (x - inside.mean()) / (inside.std() + 1e-8) * mask


def clipped(log_p: Tensor, old_log_p: np.ndarray, advantage: np.ndarray, epsilon: float = 0.2) -> Tensor:
    """PPO's clipped objective for each token, negated (Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7).

    With the ratio rho = p / p_old, -min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A). Its gradient with respect to
    log p is -rho A, or 0 where the clip holds: a token that has moved far enough moves no further. All (B, T).
    """
    old_log_p, advantage = constants(log_p, old_log_p, advantage)
    ratio = (log_p - old_log_p).exp()
    return -(ratio * advantage).minimum(ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


def clipped_value(values: Tensor, old_values: np.ndarray, returns: np.ndarray, epsilon: float = 0.2) -> Tensor:
    """Half the squared error of the values, or of the values kept within epsilon of the old ones if that is larger:
    (B, T)."""
    old_values, returns = constants(values, old_values, returns)
    near = old_values + (values - old_values).clamp(-epsilon, epsilon)
    return 0.5 * ((values - returns) ** 2).maximum((near - returns) ** 2)


def kl_estimate(log_p: Tensor, reference_log_p: np.ndarray) -> Tensor:
    """An estimate of KL(p || p_ref) from tokens drawn from p: e^d - d - 1 with d = log p_ref - log p, (B, T).

    It is without bias and never negative (Schulman 2020, http://joschu.net/blog/kl-approx.html, k3).
    """
    (reference_log_p,) = constants(log_p, reference_log_p)
    d = reference_log_p - log_p
    return d.exp() - d - 1


def group_advantages(rewards: np.ndarray, scale: bool = True) -> np.ndarray:
    """GRPO's advantages of the answers (G, n) to each of G prompts: the reward minus the group's mean, and over its
    standard deviation if `scale` (Shao et al. 2024, https://arxiv.org/abs/2402.03300, section 4.1)."""
    rewards = np.asarray(rewards, np.float64)
    centered = rewards - rewards.mean(axis=1, keepdims=True)
    return centered / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4) if scale else centered


def masked_mean(x: Tensor, mask: np.ndarray) -> Tensor:
    """The mean of x (B, T) over the tokens of the mask."""
    return (x * constants(x, mask)[0]).sum() / max(mask.sum(), 1)


def constants(like: Tensor, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays on the device of the tensor that they are computed with."""
    return tuple(to_device(array, like.device) for array in arrays)
