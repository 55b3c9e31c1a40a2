"""What tests beside transformers need."""

import pytest


@pytest.fixture
def float64_throughout(monkeypatch):
    """transformers' norms and rotations go to float32 and back, even in a float64 model: here they do not."""
    import torch
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen2 import modeling_qwen2

    def norm(self, x):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)

    def rotary(self, x, position_ids):
        angles = position_ids[..., None].to(x.dtype) * self.inv_freq.to(x.dtype)
        angles = torch.cat((angles, angles), -1)
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling

    for module, family in ((modeling_llama, "Llama"), (modeling_qwen2, "Qwen2")):
        monkeypatch.setattr(getattr(module, f"{family}RMSNorm"), "forward", norm)
        monkeypatch.setattr(getattr(module, f"{family}RotaryEmbedding"), "forward", rotary)
