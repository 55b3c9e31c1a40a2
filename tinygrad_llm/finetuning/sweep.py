"""Ranks of LoRA beside full fine-tuning: a run of each, in a process of its own, so that its memory is its own."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import reading
from tinygrad_llm.finetuning.instruct import InstructConfig
from tinygrad_llm.finetuning.report import BLUE, RED, Report, axes
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.training.config import save_config
from tinygrad_llm.training.interrupt import Interrupt

# What is compared: the name in report.json, and what it is called.
QUALITY = {"best_validation_loss": "validation loss", "loss": "test loss", "rouge_l": "test ROUGE-L"}
QUALITY |= {"exact_match": "test exact match", "judge": "judge"}
COST = {"trained": "numbers trained", "seconds": "seconds", "peak_mb": "MB"}
DRAWN = ("best_validation_loss", "rouge_l", "seconds", "peak_mb")


def variants(config: InstructConfig) -> dict[str, InstructConfig]:
    """The settings of each run that `config.sweep` asks for, such as "8,16,full:2e-5", by the name of its folder.

    The first one alone lets the model to start from answer as well. Raises UserError for what is no rank or rate.
    """
    found: dict[str, InstructConfig] = {}
    for item in config.sweep.split(","):
        match = re.fullmatch(r"(full|[1-9]\d*)(?::([\d.]+(?:e-?\d+)?))?", item.strip())
        if not match:
            raise UserError(f"sweep has {item!r}, which is neither a rank nor full, nor one with a rate, as full:2e-5")
        full, rate = match[1] == "full", float(match[2] or config.learning_rate)
        name = "full" if full else f"rank-{match[1]}"
        if name in found:
            raise UserError(f"sweep has {match[1]} twice")
        lora = None if full else replace(config.lora or LoRAConfig(), rank=int(match[1]))
        changes = {"lora": lora, "learning_rate": rate, "before": config.before and not found}
        changes["quantized"] = config.quantized and not full
        found[name] = replace(config, sweep=None, out=None, **changes)
    return found


def sweep(config: InstructConfig, folder: Path) -> Report:
    """Make the runs in `folder` that are not finished there, and a report of all.

    Raises KeyboardInterrupt after Ctrl-C, when the run in hand is saved, and UserError where a run fails.
    """
    runs = variants(config)
    save_config(replace(config, out=None), folder)
    for name, settings in runs.items():
        run = folder / name
        if (run / "report.json").is_file():
            continue
        if not (run / "config.yaml").is_file():
            save_config(settings, run)
        print(f"-- {name}", flush=True)
        command = [sys.executable, "-m", "tinygrad_llm", "finetune", "instruct", "--resume", str(run)]
        with Interrupt() as interrupt:  # the run in hand hears of it too
            status = subprocess.run(command).returncode
        if interrupt.requested or status == 130:
            print(f"the whole goes on with\n  tinygrad-llm finetune instruct --resume {folder}", file=sys.stderr)
            raise KeyboardInterrupt
        if status:
            raise UserError(f"the run {run} failed, and has said why; --resume {folder} goes on with it")
    return summarize(config, folder, runs)


def summarize(config: InstructConfig, folder: Path, runs: dict[str, InstructConfig]) -> Report:
    """The report of finished runs, written to report.html and report.json in `folder`."""
    results, before = {}, {}
    for name in runs:
        with reading(folder / name / "report.json"):
            values = json.loads((folder / name / "report.json").read_text("utf-8"))
            tests = values.get("test", {})
            results[name] = {x: values[x] for x in ("best_validation_loss", *COST)} | tests.get("after", {})
            if not before:
                before = {"best_validation_loss": values["first_validation_loss"]} | tests.get("before", {})
    report = Report(f"instruct: ranks on {Path(config.data).stem}", config.model)
    report.values |= {"before": before, "runs": results}
    names = {x: name for x, name in (QUALITY | COST).items() if any(x in found for found in results.values())}
    rows = [["before", "", *(before.get(x, "") for x in names)]] + [
        [name, runs[name].learning_rate, *(found.get(x, "") for x in names)] for name, found in results.items()
    ]
    report.table(["run", "learning rate", *names.values()], rows)
    for name, _, *found in rows:
        known = [f"{label} {x:.4g}" for x, label in zip(found, names.values(), strict=True) if x != ""]
        report.lines.append(f"{name:>9}   {'   '.join(known)}")
    drawn = [x for x in DRAWN if x in names]
    figure, panels = axes(len(drawn))
    ticks = [name.removeprefix("rank-") for name in results]
    for x, panel in zip(drawn, panels, strict=True):
        heights = [found.get(x) for found in results.values()]
        if x in COST:
            panel.bar(ticks, heights, color=BLUE)
        else:
            panel.plot(ticks, heights, color=BLUE, marker="o")
            if x in before:
                panel.axhline(before[x], color=RED, linestyle="--", linewidth=0.8, label="before")
                panel.legend(frameon=False)
        panel.set(xlabel="rank", title=names[x])
    report.heading("Quality, time and memory")
    report.figure(figure)
    report.save(folder)
    return report
