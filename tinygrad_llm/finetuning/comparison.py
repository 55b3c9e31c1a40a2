"""Instruction runs beside each other: another one in a run's report, and ranks of LoRA beside full fine-tuning."""

import json
from pathlib import Path
from typing import Any

import yaml

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.finetuning.config import FinetuneConfig
from tinygrad_llm.finetuning.report import BLUE, RED, Report, axes
from tinygrad_llm.training.metrics import read_metrics

SAME = ("data", "seed", "train_fraction", "val_fraction")  # or the examples would be others


class Other:
    """A finished run on the same examples as `config`'s. Raises UserError where `run` is none."""

    def __init__(self, run: str, config: FinetuneConfig):
        self.run = Path(run)
        if not (self.run / "answers.json").is_file():
            raise UserError(f"{run} has no answers.json: compare with a run of finetune instruct that has finished")
        with reading(self.run / "config.yaml"):
            self.settings = yaml.safe_load((self.run / "config.yaml").read_text("utf-8"))
        with reading(self.run / "report.json"):
            self.values = json.loads((self.run / "report.json").read_text("utf-8"))
            self.values["test"]["after"]
        with reading(self.run / "answers.json"):
            answers = json.loads((self.run / "answers.json").read_text("utf-8"))
            self.answers = {json.dumps(one["messages"]): one["after"]["answer"] for one in answers}
        for name in SAME:
            if self.settings.get(name) != getattr(config, name):
                raise UserError(
                    f"{run} has {name} {self.settings.get(name)}, not {getattr(config, name)}: "
                    "only runs on the same examples can be compared"
                )

    def compare(self, report: Report, run: Path, settings: dict[str, Any], shown: int) -> None:
        """Put both runs' settings where they differ, scores, curves and answers into the report of `run`."""
        report.heading(f"Beside {self.run}")
        differing = [name for name in settings if settings[name] != self.settings.get(name)]
        names = [name for name in differing if name not in ("compare", "kernels", "threads")]
        rows = [[name, str(settings[name]), str(self.settings.get(name))] for name in names]
        mine, theirs = report.values["test"]["after"], self.values["test"]["after"]
        rows += [[f"test {x.replace('_', ' ')}", f"{mine[x]:.4g}", f"{theirs[x]:.4g}"] for x in mine if x in theirs]
        for name in ("best_validation_loss", "seconds", "peak_mb"):
            rows.append([name.replace("_", " "), f"{report.values[name]:.4g}", f"{self.values[name]:.4g}"])
        report.table(["", run.name, self.run.name], rows)
        report.values["compared"] = {"run": str(self.run), "test": theirs}
        figure, (panel,) = axes()
        for folder, color in ((run, BLUE), (self.run, RED)):
            lines = [line for line in read_metrics(folder) if line["split"] == "val"]
            points = [(line["step"], line["loss"]) for line in lines]
            panel.plot(*zip(*points, strict=True), label=folder.name, color=color, marker="o", markersize=3.5)
        panel.set(xlabel="step", ylabel="validation loss (nats per token)")
        panel.legend(frameon=False)
        report.figure(figure)
        answers = json.loads((run / "answers.json").read_text("utf-8"))[:shown]
        rows = [
            [*(m["content"] for m in one["messages"][-1:]), one["expected"], one["after"]["answer"], said]
            for one in answers
            if (said := self.answers.get(json.dumps(one["messages"]))) is not None
        ]
        if rows:
            report.compare(["instruction", "expected", run.name, self.run.name], rows)
