"""Stochastic gradient descent with momentum (Polyak 1964; in the form of Sutskever et al. 2013 that torch uses)."""

import numpy as np

from tinygrad_llm.optim.optimizer import Optimizer


class SGD(Optimizer):
    """velocity = momentum velocity + gradient;  param = param - lr velocity. Weight decay is a part of the gradient."""

    def __init__(self, parameters: list, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(parameters, lr, weight_decay)
        self.momentum = momentum
        self.state = {"velocity": np.zeros_like(self.data)} if momentum else {}

    def update(self, param, grad, velocity=None, *, weight_decay, scale):
        g = grad * scale + weight_decay * param
        if velocity is not None:
            velocity *= self.momentum
            velocity += g
            g = velocity
        param -= self.lr * g
