"""The picture of the system on docs/concepts.md: python docs/images/system.py docs/images."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, FAINT, PAPER = "#1F2430", "#5A6272", "#F0F1F5"
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"


def box(
    axes: Axes, at: tuple[float, float, float, float], title: str, text: str, edge: str
) -> None:
    """A box with a title and a text below it; at: left, bottom, width, height."""
    left, bottom, width, height = at
    shape = FancyBboxPatch(
        (left, bottom),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=1.2",
        fc=PAPER,
        ec=edge,
        lw=1.6,
    )
    axes.add_patch(shape)
    top = bottom + height - 1.6
    axes.text(left + 1.5, top, title, va="top", weight="bold", color=INK, fontsize=11)
    axes.text(left + 1.5, top - 4.2, text, va="top", color=FAINT, fontsize=9, linespacing=1.45)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    at: tuple[float, float],
) -> None:
    """An arrow, and what goes along it."""
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=INK, lw=1.4)
    )
    axes.text(*at, text, color=INK, fontsize=9, ha="center", va="center")


def system() -> Figure:
    """Jobs, cluster, belief and policy, and what goes between them."""
    figure = Figure(figsize=(10, 3.7), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 37))
    axes.axis("off")
    jobs = "jobs arrive, each a\ngraph of LLM calls and\ntools; parts hidden\nuntil others complete"
    slots = "engines with slots: LLM calls\nregular executors: tools\ntasks are never interrupted"
    network = "a Bayesian network for each\napplication, fitted on past jobs"
    sees = "sees the observation,\nand nothing else; says\nwhich stage gets the\nfree slot"
    box(axes, (2, 19, 20, 16), "workload", jobs, BLUE)
    box(axes, (39, 21, 26, 14), "cluster", slots, BLUE)
    box(axes, (39, 2, 26, 11), "belief", network, GREEN)
    box(axes, (79, 11, 19, 16), "policy", sees, ORANGE)
    arrow(axes, (22, 28), (39, 28), "jobs", (30.5, 29.6))
    arrow(axes, (12, 19), (39, 7), "past jobs", (21, 11.5))
    arrow(axes, (52, 21), (52, 13), "stages that complete", (61, 17))
    arrow(axes, (65, 31), (79, 24), "observation,\nreward", (76, 30.5))
    arrow(axes, (79, 20), (65, 24), "action", (70.5, 20.5))
    arrow(axes, (65, 7), (79, 14), "what is left,\nhow uncertain", (76, 7.3))
    return figure


if __name__ == "__main__":
    system().savefig(Path(sys.argv[1]) / "concepts" / "system.png", dpi=110)
