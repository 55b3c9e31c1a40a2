"""What a run measures, for programs: `metrics.jsonl`, event files for TensorBoard, and the picture of both losses."""

import contextlib
import json
import math
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import replacing, write_atomic
from tinygrad_llm.training.events import Events


class Metrics:
    """Appends to `metrics.jsonl`, one JSON object a line, and to TensorBoard's event files.

    `split` is "batch" for a step's own loss, with its learning_rate, gradient_norm and tokens_per_second; "train" and
    "val" for what an evaluation measured. What was written after `step`, by a run that was killed, is dropped.
    """

    def __init__(self, run: Path, step: int):
        path = run / "metrics.jsonl"
        kept = [json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step]
        write_atomic(path, "".join(kept if step else []))
        self.file = open(path, "a")  # noqa: SIM115
        self.events = Events(run, step + 1 if step else None)

    def log(self, step: int, split: str, **values: float) -> None:
        """Write one line. Raises UserError where the disk is full."""
        # JSON has no NaN: a loss that is not a number becomes null.
        values = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            self.file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            self.file.flush()
            plain = split == "batch"  # but for the loss, which the others have too
            tags = {name if plain and name != "loss" else f"{name}/{split}": value for name, value in values.items()}
            self.events.add(step, {tag: value for tag, value in tags.items() if value is not None})
        except OSError as error:
            raise UserError(f"cannot write {self.file.name}: {error.strerror}; the checkpoints are whole") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the disk may be full, which has been said
            self.file.close()
            self.events.close()


def read_metrics(run: Path) -> list[dict]:
    """The whole lines of a run's metrics.jsonl; the last one may have been cut by a kill."""
    lines = []
    if (run / "metrics.jsonl").exists():
        for line in (run / "metrics.jsonl").read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def plot(run: Path, unit: str) -> None:
    """Draw `loss.png` from metrics.jsonl: training loss by batch, and both evaluated losses, in `unit`, over steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(run)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    styles = {
        "batch": {"label": "training batch", "color": "#9db8d2", "linewidth": 0.8},
        "train": {"label": "training", "color": "#1f5f99", "marker": "o", "markersize": 3.5},
        "val": {"label": "validation", "color": "#d1495b", "marker": "o", "markersize": 3.5},
    }
    for split, style in styles.items():
        points = [(line["step"], line["loss"]) for line in lines if line["split"] == split and line["loss"] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), **style)
    if points:  # validation's
        step, loss = points[-1]
        beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{loss:.3f}", (step, loss), color=style["color"], **beside)
    axes.set(xlabel="step", ylabel=f"loss ({unit})", title=run.name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    if lines:
        axes.legend(frameon=False)
    with replacing(run / "loss.png") as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
