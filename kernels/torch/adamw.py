"""AdamW in one pass, PyTorch's fused one: `tinygrad_llm.optim.adamw` has the definition."""

import torch

from tinygrad_llm.kernels.torch.tensors import on_tensors

aten = torch.ops.aten


@on_tensors
def adamw_step(param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step, scale):
    settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay, "eps": eps}
    steps = torch.tensor(float(step), device=param.device)
    lists = [param], [grad if scale == 1 else grad * scale], [m], [v], [], [steps]
    aten._fused_adamw_(*lists, **settings, amsgrad=False, maximize=False)
