"""AdamW in one pass: `tinygrad_llm.optim.adamw` has the definition (Loshchilov & Hutter 2019).

The step is bound by memory: it reads four numbers and writes three for every parameter. NumPy goes back to memory for
every operator of the formula; here each number is read once and written once. The clip factor `scale` comes along for
free, where a clip of its own would read and write all gradients once more.
"""

import math

import numpy as np

from tinygrad_llm.kernels.numba.threads import leaf


def adamw_step(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, scale) -> None:
    constants = (
        scale,
        1 - beta1,
        1 - beta2,
        1 - lr * weight_decay,
        lr / (1 - beta1**step),
        1 / math.sqrt(1 - beta2**step),
        eps,
    )
    _step(param, grad, m, v, *map(param.dtype.type, constants))


@leaf
def _step(part, parts, param, grad, m, v, scale, share1, share2, keep, rate, correction, eps):
    mine = slice(param.size * part // parts, param.size * (part + 1) // parts)
    ps, gs, ms, vs = param[mine], grad[mine], m[mine], v[mine]
    for i in range(ps.size):
        g = gs[i] * scale
        ms[i] += share1 * (g - ms[i])
        vs[i] += share2 * (g * g - vs[i])
        ps[i] = ps[i] * keep - rate * ms[i] / (np.sqrt(vs[i]) * correction + eps)
