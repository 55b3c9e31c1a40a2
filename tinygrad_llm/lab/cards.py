"""What an operation costs on a GPU, on paper: a roofline over the published figures of a card. A model, no measurement.

An operation takes at least the longer of two times: that of its bytes at the card's memory bandwidth, and that of its
products at the card's peak (see `tinygrad_llm.roofline`, which says what counts). Peaks are what the data sheet says;
kernels that come within four fifths of a bandwidth, or two thirds of a tensor peak, are good ones. What fits into the
L2 cache may move faster, and a launch costs some microseconds, which the model leaves out.
"""

from dataclasses import dataclass

import numpy as np

from tinygrad_llm.bench import ops
from tinygrad_llm.errors import UserError
from tinygrad_llm.roofline import Work, WorkCounter

LABEL = "a model from published figures, not a measurement: no kernel here has been timed on a GPU"


@dataclass(frozen=True)
class Card:
    """A card's published peaks: bytes a second from its memory; float32 operations a second, multiplications and
    additions, without tensor cores; and those of the tensor cores on 16-bit numbers, dense, added up in float32."""

    name: str
    architecture: str
    bandwidth: float
    float32: float
    tensor: float

    def times(self, work: Work) -> tuple[float, float]:
        """The least seconds for float32, and for 16-bit storage on tensor cores, where half the bytes move."""
        return (
            max(work.bytes / self.bandwidth, work.flops / self.float32),
            max(work.bytes / 2 / self.bandwidth, work.flops / self.tensor),
        )


CARDS = {
    # NVIDIA T4 Tensor Core GPU data sheet, 2019; its tensor cores take float16 alone
    "t4": Card("T4", "sm_75", 320e9, 8.1e12, 65e12),
    # NVIDIA A100 Tensor Core GPU data sheet, 2021: the 80 GB SXM module
    "a100": Card("A100 80 GB SXM", "sm_80", 2039e9, 19.5e12, 312e12),
    # NVIDIA Ada GPU architecture white paper, 2022, appendix A
    "rtx4090": Card("RTX 4090", "sm_89", 1008e9, 82.6e12, 165.2e12),
    # NVIDIA H100 Tensor Core GPU data sheet, 2023: the SXM module; half of the tensor peak that is stated with sparsity
    "h100": Card("H100 SXM", "sm_90", 3.35e12, 67e12, 989.5e12),
    # NVIDIA Blackwell architecture technical brief, 2024: one GPU of an HGX B200
    "b200": Card("B200", "sm_100", 8e12, 80e12, 2250e12),
}


@dataclass(frozen=True)
class Estimate:
    """A call of an operation at a model's shapes, on a card: the work in float32, and the least seconds for it."""

    operation: str
    case: str
    phase: str
    card: str
    flops: int
    bytes: int
    float32_seconds: float
    tensor_seconds: float


def card(name: str) -> Card:
    """The card of this name, however it is spelled: "RTX 4090" or "rtx4090". Raises UserError for an unknown one."""
    key = "".join(filter(str.isalnum, name.lower()))
    if key not in CARDS:
        raise UserError(f"there are no figures for the card {name!r}: choose from {', '.join(CARDS)}")
    return CARDS[key]


def roofline(operation: str, cards: list[str] | None = None, models=("124m", "smollm2")) -> list[Estimate]:
    """What each call of the operation in a training step of the models must do, and the least time for it on each card;
    where none of them calls it, the cases that it is verified on.

    Raises UserError for an unknown operation or card.
    """
    chosen = [card(name) for name in cards or CARDS]
    return [
        Estimate(operation, label, phase, each.name, work.flops, work.bytes, *each.times(work))
        for label, case in ops.cases_of(operation, models).items()
        for phase, work in works(case)
        for each in chosen
    ]


def works(case: dict) -> list[tuple[str, Work]]:
    """The work of a call by phase. From shapes alone: the arrays are never touched, so the memory is never theirs."""
    count, inputs = WorkCounter(), [_untouched(x) for x in case["inputs"]]
    if case["name"] == ops.UPDATE:
        flat = [np.empty(sum(x.size for x in inputs), np.float32) for _ in range(4)]  # parameters, gradient, m, v
        clip, adamw = count("update", "clip_grad_norm", flat[1:2] * 2, ()), count("update", "AdamW", flat, ())
        return [("update", Work(clip.flops + adamw.flops, clip.bytes + adamw.bytes))]
    y = _untouched(case["output"])
    forward = count("forward", case["name"], inputs, (y,))
    if not any(case["needs"]):
        return [("forward", forward)]
    passes_on = case["name"] == "add"  # whose gradient of what has the result's shape is the result's own
    gradients = tuple(
        None if not need else y if passes_on and x.shape == y.shape else np.empty_like(x)
        for x, need in zip(inputs, case["needs"], strict=True)
    )
    return [("forward", forward), ("backward", count("backward", case["name"], (y,), gradients))]


def _untouched(x):
    return np.empty(x["shape"], x["dtype"]) if isinstance(x, dict) else x

