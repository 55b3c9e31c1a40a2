"""nanoGPT's CPU recipe on Tiny Shakespeare until its validation loss is 1.89, starting up included.

All sides have nanoGPT's own first weights and its own batches. They measure on the windows that nanoGPT draws last, on
which its loss is 1.8857 after 2000 steps; once in 100 steps, which makes 400 batches of 2000, near nanoGPT's own 360.
"""

from dataclasses import dataclass

from tinygrad_llm.bench import race, step_char
from tinygrad_llm.bench.step import FreshStep
from tinygrad_llm.errors import UserError
from tinygrad_llm.optim import learning_rate


@dataclass(frozen=True)
class Race(FreshStep):
    """To a loss.

    Args:
        steps: the most steps that a side may need
        target: the validation loss at which to stop
        eval_interval: steps between evaluations
    """

    rounds: int = 1
    steps: int = 2000
    target: float = 1.89
    eval_interval: int = 100

    config = step_char.Race.config

    def __post_init__(self):
        super().__post_init__()
        if self.eval_interval < 1:
            raise UserError(f"eval_interval must be at least 1, not {self.eval_interval}")

    def start(self) -> dict:
        race.require_torch("nanoGPT's start")
        from tinygrad_llm.bench import nanogpt_curve

        weights, draws = nanogpt_curve.recording(self.config, self.steps)
        last = max(step for purpose, step, _ in draws if purpose == "val")
        return {
            "weights": weights,
            "batches": [batch for purpose, _, batch in draws if purpose == "step"],
            "evaluation": [batch for purpose, step, batch in draws if (purpose, step) == ("val", last)],
            "lr": [learning_rate(i, **nanogpt_curve.SCHEDULE) for i in range(self.steps)],
            "eval_interval": self.eval_interval,
            "target": self.target,
        }

    def details(self, rounds: list[dict[str, dict]]) -> dict:
        """The step at which each side reached the target, and its loss there. Raises UserError where one did not."""
        reached = {}
        for side, answer in rounds[-1].items():
            step, loss = len(answer["losses"]), answer["evaluations"][-1]
            if not loss <= self.target:
                raise UserError(f"{side} did not reach the loss {self.target} in {step} steps: it is {loss:.4f}")
            reached[side] = {"step": step, "loss": loss}
        return {"target": self.target, "reached": reached}
