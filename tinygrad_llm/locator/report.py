"""The report: errors along the depth of the network, forward and backward, and through the steps of training."""

from dataclasses import asdict

from tinygrad_llm.finetuning.report import BLUE, FAINT, INK, RED, Report, axes


def report(comparison) -> Report:
    """Of a Comparison: the verdict, a figure for each direction, and the table."""
    found = Report("Two models in lockstep", "the agreement" if comparison.agrees else f"first: {comparison.place}")
    found.values = {
        "phase": comparison.phase,
        "place": comparison.place,
        "verdict": comparison.verdict,
        "forward": [asdict(row) for row in comparison.forward],
        "backward": [asdict(row) for row in comparison.backward],
        "steps": [asdict(step) for step in comparison.steps],
    }
    found.heading("Verdict", comparison.verdict)
    for title, rows in (("Forward", comparison.forward), ("Backward", comparison.backward)):
        found.heading(title, "From the first computed to the last; errors as shares of the largest number.")
        found.figure(depth([str(row) for row in rows], [row.error for row in rows], [row.limit for row in rows]))
        found.table(
            ["", "error", "noise explains", "differs"],
            [[str(row), row.error, row.limit, "differs" if row.differs else ""] for row in rows],
        )
    if comparison.steps:
        found.heading("Training", "The largest error of a parameter after each step.")
        worst = [max(step.rows, key=lambda row: row[1] / row[2]) for step in comparison.steps]
        names = [f"step {step.number}: {row[0]}" for step, row in zip(comparison.steps, worst, strict=True)]
        found.figure(depth(names, [row[1] for row in worst], [row[2] for row in worst]))
    return found


def depth(names: list[str], errors: list[float], limits: list[float]):
    """Errors in order, those beyond their limits in red, the first with its name, under the line that the limits make.
    What is equal to the last bit is at the bottom."""
    figure, (panel,) = axes(height=3.8)
    shown = [min(max(error, 1e-18), 1e3) for error in errors]
    panel.semilogy(limits, color=FAINT, label="noise explains")
    panel.semilogy(shown, color=BLUE, linewidth=0.8, marker="o", markersize=3, label="error")
    beyond = [i for i, (error, limit) in enumerate(zip(errors, limits, strict=True)) if not error <= limit]
    if beyond:
        panel.semilogy(beyond, [shown[i] for i in beyond], "o", color=RED, markersize=4, label="differs")
        panel.axvline(beyond[0], color=RED, linewidth=0.6)
    every = max(1, len(names) // 12)
    regular = (i for i in range(0, len(names), every) if not beyond or abs(i - beyond[0]) > every // 2)
    ticks = sorted({*regular, *beyond[:1]})
    panel.set_xticks(ticks, [names[i].removeprefix("the ").replace("result of ", "") for i in ticks], rotation=40)
    for i, label in zip(ticks, panel.get_xticklabels(), strict=True):
        label.set(ha="right", fontsize=7, color=RED if i in beyond[:1] else INK)
    panel.set_ylabel("share of the largest number")
    panel.legend(frameon=False)
    return figure
