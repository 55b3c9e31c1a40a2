"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2),
and Adam itself (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1).

With g the gradient and t the number of the step, from 1 on,

    m = beta1 m + (1 - beta1) g             the running mean of g, and
    v = beta2 v + (1 - beta2) g^2           of its square; both start at 0, so that at step t
    mhat = m / (1 - beta1^t)                they hold only that share of a mean:
    vhat = v / (1 - beta2^t)                this corrects it
    param = param - lr weight_decay param - lr mhat / (sqrt(vhat) + eps)

Decoupled means that the decay shrinks the parameter itself. Adam adds weight_decay param to g instead, where it is
divided by sqrt(vhat) like everything else.
"""

import math

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.memory import zeros
from tinygrad_llm.optim.optimizer import Optimizer


def adamw_step(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, scale):
    """One step in place on flat arrays of the same length. `scale`, a number or on a device an array of one, multiplies
    the gradient; `step` counts from 1."""
    g = grad * scale
    m += (1 - beta1) * (g - m)
    v *= beta2
    v += (1 - beta2) * (g * g)
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    param *= 1 - lr * weight_decay
    param -= (lr / correction1) * m / (np.sqrt(v) / math.sqrt(correction2) + eps)


class AdamW(Optimizer):
    """AdamW with torch.optim.AdamW's defaults. For a language model's groups see `decay_groups`."""

    def __init__(
        self,
        parameters: list,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(parameters, lr, weight_decay)
        self.betas, self.eps = betas, eps
        dtype = np.promote_types(self.data.dtype, np.float32)  # the steps of a mean are too small for halves to show
        self.state = {name: zeros(self.data.shape, dtype, self.data) for name in "mv"}

    def update(self, param, grad, m, v, weight_decay, scale):
        run = kernels.select("adamw_step", adamw_step, param)
        run(param, grad, m, v, self.lr, *self.betas, self.eps, weight_decay, self.steps, scale)


class Adam(AdamW):
    """Adam with torch.optim.Adam's defaults; its weight decay is a part of the gradient."""

    def __init__(
        self,
        parameters: list,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def update(self, param, grad, m, v, weight_decay, scale):
        if weight_decay:
            grad, scale = grad * scale + weight_decay * param, 1.0
        super().update(param, grad, m, v, 0.0, scale)
