"""A run's report: `report.html`, one file to look at, light or dark as the reader's screen is; and `report.json`."""

import io
import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.files import write_atomic

# Colors in the figures, and the style sheet's that stand for them in the page.
COLORS = {"#26262a": "var(--ink)", "#9db8d2": "var(--faint)", "#1f5f99": "var(--blue)", "#d1495b": "var(--red)"}
INK, FAINT, BLUE, RED = COLORS
SPLITS = {"batch": ("batch", FAINT), "train": ("training", BLUE), "val": ("validation", RED)}

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #26262a; --soft: #6c6c74; --line: #e3e3de; --card: #f4f4f0;
  --blue: #1f5f99; --red: #d1495b; --faint: #9db8d2; --green: #2f855a; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181c; --ink: #e4e4e0; --soft: #9a9aa2; --line: #33353c;
  --card: #202228; --blue: #6aaee8; --red: #ef7d8c; --faint: #42607c; --green: #6cc596; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.25rem 5rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -.02em; }
h2 { margin: 3rem 0 .6rem; font-size: 1.2rem; }
p, figcaption, caption { color: var(--soft); margin: .2rem 0 .9rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.5rem 0; }
.tiles div { flex: 1 1 8rem; padding: .8rem 1rem; border-radius: .6rem; background: var(--card); }
.tiles b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; letter-spacing: -.01em; }
.tiles span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; padding-right: 1.2rem; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 14rem; }
table.confusion { width: auto; border-spacing: 3px; border-collapse: separate; }
table.confusion td { border: 0; border-radius: .4rem; padding: .9rem 1.4rem; text-align: center; }
table.confusion td small { display: block; color: var(--soft); }
table.confusion th { border: 0; padding: .3rem .7rem; }
figure { margin: 0; }
svg { max-width: 100%; height: auto; }
svg text { font-family: inherit !important; fill: currentColor !important; }
"""


class Report:
    """Sections in the order in which they are added, and `values`, what programs want to know."""

    def __init__(self, title: str, subtitle: str = ""):
        self.title = title
        self.values: dict[str, Any] = {}
        self.lines: list[str] = []
        self.parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(subtitle)}</p>"]

    def heading(self, text: str, note: str = "") -> None:
        """Begin a section."""
        self.parts.append(f"<h2>{escape(text)}</h2>")
        if note:
            self.paragraph(note)

    def paragraph(self, text: str) -> None:
        self.parts.append(f"<p>{escape(text)}</p>")

    def tiles(self, values: dict[str, str]) -> None:
        """A few numbers, large, each with its name."""
        self.lines += [f"{value:>12}   {name}" for name, value in values.items()]
        tiles = [f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values.items()]
        self.parts.append(f'<div class="tiles">{"".join(tiles)}</div>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
        """Rows under a header; numbers stand on the right, and text keeps its line ends."""

        def cell(value) -> str:
            if isinstance(value, str):
                return f'<td class="text">{escape(value)}</td>' if len(value) > 40 else f"<td>{escape(value)}</td>"
            return f'<td class="number">{format(value, "," if isinstance(value, int) else ".4g")}</td>'

        numbers = [all(not isinstance(row[i], str) for row in rows) for i in range(len(header))]
        head = "".join(
            f'<th{" class=number" * number}>{escape(name)}</th>' for name, number in zip(header, numbers, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        self.parts.append(f'<div class="wide"><table>{title}<tr>{head}</tr>{body}</table></div>')

    def compare(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Texts side by side, such as a prompt and the answers before and after."""
        head = "".join(f"<th>{escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td class=text>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
        self.parts.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')

    def confusion(self, labels: Sequence[str], matrix: np.ndarray) -> None:
        """A confusion matrix: a row for each true class, a column for each that was found; both counts and shares."""
        head = "".join(f"<th>{escape(label)}</th>" for label in labels)
        body = ""
        for i, label in enumerate(labels):
            cells = ""
            for j, count in enumerate(matrix[i]):
                share, color = count / max(matrix[i].sum(), 1), "green" if i == j else "red"
                shade = f"background: color-mix(in srgb, var(--{color}) {round(75 * math.sqrt(share))}%, var(--card))"
                cells += f'<td style="{shade}">{count:,}<small>{share:.1%}</small></td>'
            body += f"<tr><th>{escape(label)}</th>{cells}</tr>"
        corner = "<th>true ↓ found →</th>"
        self.parts.append(f'<div class="wide"><table class="confusion"><tr>{corner}{head}</tr>{body}</table></div>')

    def figure(self, figure, caption: str = "") -> None:
        """A figure of matplotlib, in the page as SVG, with the page's colors and letters."""
        note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self.parts.append(f"<figure>{svg(figure)}{note}</figure>")

    def summary(self) -> str:
        """The numbers of the tiles, for a terminal."""
        return "\n".join(self.lines)

    def html(self) -> str:
        body = "\n".join(self.parts)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width"><title>{escape(self.title)}</title><style>{STYLE}</style></head>\n'
            f"<body>\n{body}\n</body></html>\n"
        )

    def save(self, run: Path) -> None:
        """Write report.html and report.json. Raises UserError where that fails."""
        write_atomic(run / "report.html", self.html())
        write_atomic(run / "report.json", json.dumps(self.values, indent=2, ensure_ascii=False) + "\n")


def svg(figure) -> str:
    """The figure as an SVG element."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for color, variable in COLORS.items():
        text = text.replace(color, variable)
    return text


def axes(columns: int = 1, height: float = 3.2) -> tuple:
    """A figure and its axes, side by side, in the report's style."""
    import matplotlib
    from matplotlib.figure import Figure

    style = dict.fromkeys(["axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"], INK)
    with matplotlib.rc_context(style | {"font.size": 10}):
        figure = Figure(figsize=(9.2, height), layout="constrained", facecolor="none")
        found = figure.subplots(1, columns, squeeze=False)[0]
    for one in found:
        one.set_facecolor("none")
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.18, color=INK)
        one.margins(x=0.02)
    return figure, found


def curves(lines: list[dict], unit: str):
    """A figure of what metrics.jsonl has for each split, one beside the other: the loss first."""
    split_lines = {split: [line for line in lines if line["split"] == split] for split in SPLITS}
    measured = [name for line in split_lines["val"] for name in line if name not in ("step", "split")]
    names = list(dict.fromkeys(["loss", *measured]))
    figure, panels = axes(len(names))
    for name, panel in zip(names, panels, strict=True):
        for split, (label, color) in SPLITS.items():
            points = [(line["step"], line[name]) for line in split_lines[split] if line.get(name) is not None]
            if points:
                style = {"linewidth": 0.8} if split == "batch" else {"marker": "o", "markersize": 3.5}
                panel.plot(*zip(*points, strict=True), label=label, color=color, **style)
        panel.set(xlabel="step", ylabel=f"loss ({unit})" if name == "loss" else name)
        if panel.lines:
            panel.legend(frameon=False)
    return figure


def spreads(rewards: np.ndarray):
    """A figure of the rewards (2, N) of chosen and rejected answers, and of their differences."""
    figure, (left, right) = axes(2)
    edges = np.histogram_bin_edges(rewards, 24)
    for values, label, color in zip(rewards, ("chosen", "rejected"), (BLUE, FAINT), strict=True):
        left.hist(values, edges, label=label, color=color, alpha=0.75)
    left.legend(frameon=False)
    left.set(xlabel="reward", ylabel="answers")
    right.hist(rewards[0] - rewards[1], 24, color=BLUE)
    right.axvline(0, color=FAINT)
    right.set(xlabel="chosen minus rejected", ylabel="pairs")
    return figure
