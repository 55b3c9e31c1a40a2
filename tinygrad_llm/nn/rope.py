"""The angles of the rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864), and their scalings.

A head's channels i and i + D/2 are turned by the angle position · f_i, with f_i = theta^(-2i/D). A model that shall
read more than it was trained on slows its rotations down, in one of these ways, by the names in config.json:

    linear   f_i / factor (Chen et al. 2023, https://arxiv.org/abs/2306.15595)
    dynamic  theta grows with a sequence that is longer than the trained length ("dynamic NTK")
    llama3   slow rotations as linear, fast ones as they are, a ramp by wavelength in between (Llama 3.1)
    yarn     the same with a ramp by channel, and cos and sin scaled (Peng et al. 2023, https://arxiv.org/abs/2309.00071)

The frequencies are float32 numbers, as transformers has them, so that a model has the same angles there and here.
"""

import math

import numpy as np

from tinygrad_llm.errors import UserError

TRAINED = "original_max_position_embeddings"
REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor", TRAINED),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", TRAINED),
    "yarn": ("factor", TRAINED),
}


def check_rotations(theta: float, dim: int, scaling: dict | None) -> None:
    """Raise UserError for a scaling that is not known or lacks a number, and where no finite frequencies come of it."""
    kind = scaling.get("rope_type") if scaling is not None else None
    if scaling is not None and kind not in REQUIRED:
        raise UserError(f"rope_scaling {kind!r} is not one of {', '.join(REQUIRED)}")
    for name in REQUIRED.get(kind, ()):
        value = scaling.get(name)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"rope_scaling {kind!r} needs a number above 0 as {name}, not {value!r}")
    try:
        with np.errstate(all="ignore"):
            f, factor = frequencies(theta, min(dim, 256), scaling)
        finite = np.isfinite(f).all() and math.isfinite(factor)
    except (ArithmeticError, TypeError, ValueError):
        finite = False
    if not finite:
        raise UserError(f"no finite frequencies come of rope_theta {theta} and rope_scaling {scaling}")


def rotation(positions: np.ndarray, theta: float, dim: int, scaling: dict | None, dtype) -> tuple:
    """cos and sin (..., T, D) of the angles at positions (..., T), for `ops.rotary`."""
    f, factor = frequencies(theta, dim, scaling, int(positions.max(initial=0)) + 1)
    angles = positions[..., None].astype(dtype) * f.astype(dtype)  # (..., T, D/2)
    angles = np.concatenate([angles, angles], -1).astype(np.float64)
    return (np.cos(angles).astype(dtype) * factor, np.sin(angles).astype(dtype) * factor)


def frequencies(theta: float, dim: int, scaling: dict | None = None, length: int = 1) -> tuple[np.ndarray, float]:
    """f (D/2,), float32, for sequences of `length` tokens, and the factor of cos and sin."""
    s = scaling or {}
    match s.get("rope_type"):
        case "linear":
            return 1 / _powers(theta, dim) / np.float32(s["factor"]), 1.0
        case "dynamic":
            stretch = s["factor"] * max(length, s[TRAINED]) / s[TRAINED] - (s["factor"] - 1)
            return 1 / _powers(theta * stretch ** (dim / (dim - 2)), dim), 1.0
        case "llama3":
            return _llama3(1 / _powers(theta, dim), s), 1.0
        case "yarn":
            return _yarn(theta, dim, s), _yarn_factor(s)
    return 1 / _powers(theta, dim), 1.0


def _powers(theta: float, dim: int) -> np.ndarray:
    """theta^(2i/D), rounded to float32 where transformers rounds."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (theta ** exponents.astype(np.float64)).astype(np.float32)


def _llama3(f: np.ndarray, s: dict) -> np.ndarray:
    low, high, trained = s["low_freq_factor"], s["high_freq_factor"], s[TRAINED]
    wavelength = np.float32(2 * math.pi) / f
    smooth = (trained / wavelength - low) / (high - low)
    between = (1 - smooth) * f / s["factor"] + smooth * f
    return np.where(wavelength < trained / high, f, np.where(wavelength > trained / low, f / s["factor"], between))


def _yarn(theta: float, dim: int, s: dict) -> np.ndarray:
    def channel(turns: float) -> float:
        """The channel that turns so often over the trained length."""
        return dim * math.log(s[TRAINED] / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel(s.get("beta_fast") or 32), channel(s.get("beta_slow") or 1)
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    powers, fast = _powers(theta, dim), 1 - ramp
    return 1 / (s["factor"] * powers) * (1 - fast) + 1 / powers * fast


def _yarn_factor(s: dict) -> float:
    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(s["factor"]) + 1 if s["factor"] > 1 else 1.0

    if s.get("attention_factor") is not None:
        return float(s["attention_factor"])
    if s.get("mscale") and s.get("mscale_all_dim"):
        return scale(s["mscale"]) / scale(s["mscale_all_dim"])
    return scale(1)
