"""The scalings of the rotary embedding (`nn.rope`) in GGUF files.

Linear and yarn are metadata under "rope.scaling.". Llama 3's is the tensor `rope_freqs.weight`, what it divides each
frequency by; the numbers that make it so are metadata only in files of ours.
"""

import math

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.nn.rope import TRAINED, check_rotations, frequencies

LENGTH = "original_context_length"
YARN = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # in all of Llama 3.1 to 3.3, as is the length
LLAMA3_LENGTH = 8192


def read_scaling(fields, divisors: np.ndarray | None, theta: float, dim: int, block_size: int) -> dict | None:
    """The scaling, with config.json's keys, or None for none, of a file with these `divisors`.

    `fields.real(name, default)`, `whole` and `text` give its metadata. Raises UserError for what this program lacks.
    """
    kind, factor = fields.text("rope.scaling.type", "linear"), fields.real("rope.scaling.factor", 1.0)
    if divisors is not None:
        if not isinstance(divisors, np.ndarray) or divisors.shape != (dim // 2,) or not np.all(divisors > 0):
            raise UserError(f"rope_freqs.weight must be {dim // 2} numbers above 0")
        kind, factor = "llama3", float(divisors.max())
    if kind == "none" or factor in (0, 1):
        return None
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "llama3":
        scaling |= {name: fields.real(f"rope.scaling.{name}", default) for name, default in LLAMA3.items()}
        scaling[TRAINED] = fields.whole(f"rope.scaling.{LENGTH}", LLAMA3_LENGTH)
    elif kind == "yarn":
        scaling |= {ours: x for ours, theirs in YARN.items() if (x := fields.real(f"rope.scaling.{theirs}", 0.0))}
        scaling[TRAINED] = fields.whole(f"rope.scaling.{LENGTH}", block_size)
    check_rotations(theta, dim, scaling)
    f, amplitude = frequencies(theta, dim, scaling)
    if kind == "llama3" and not np.allclose(frequencies(theta, dim)[0] / divisors, f, rtol=1e-4, atol=0):
        raise UserError("rope_freqs.weight are not what Llama 3's scaling divides the frequencies by")
    if kind == "yarn" and (relative := fields.real("rope.scaling.attn_factor", 1.0)) != 1:
        scaling["attention_factor"] = relative * amplitude
    return scaling


def write_scaling(scaling: dict | None, theta: float, dim: int) -> tuple[dict, dict[str, np.ndarray]]:
    """A scaling's metadata under "rope.scaling." and its tensors. Raises UserError for one that llama.cpp lacks."""
    if scaling is None:
        return {}, {}
    kind, (f, amplitude) = scaling["rope_type"], frequencies(theta, dim, scaling)
    if kind == "llama3":
        divisors = (frequencies(theta, dim)[0] / f).astype(np.float32)
        values = {name: float(scaling[name]) for name in LLAMA3}
        return values | {LENGTH: int(scaling[TRAINED])}, {"rope_freqs.weight": divisors}
    values = {"type": kind, "factor": float(scaling["factor"])}
    if kind == "yarn" and scaling.get("truncate", True):
        values |= {theirs: float(scaling[ours]) for ours, theirs in YARN.items() if scaling.get(ours)}
        values["attn_factor"] = amplitude / (0.1 * math.log(max(scaling["factor"], 1)) + 1)  # relative to yarn's own
        values[LENGTH] = int(scaling[TRAINED])
    elif kind != "linear":
        raise UserError(f"llama.cpp has no rotary embedding scaled as this model's is: {scaling}")
    return values, {}
