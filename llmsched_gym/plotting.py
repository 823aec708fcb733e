"""The looks that all figures share, for people who may not tell all colours apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette; the evaluated policy comes first and takes the strongest colour.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C6D31")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
BLACK = "#000000"


class Picture(Figure):
    """A figure that notebooks show as it is, whatever backend they use."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file)
        return file.getvalue()


def new_figure(title: str, height: float) -> tuple[Picture, Axes]:
    """A figure of one panel under a title; ``height`` in inches."""
    figure = Picture(figsize=(7.5, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(title, fontsize="medium", x=0.01, horizontalalignment="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def line_style(number: int, clairvoyant: bool) -> dict[str, Any]:
    """Of the line of a policy: the evaluated one is number 0."""
    if clairvoyant:
        return {"color": BLACK, "linestyle": (0, (1, 2)), "linewidth": 1.5}
    style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
    return style | {"linewidth": 2.6 if number == 0 else 1.5}


def shown_label(label: str, clairvoyant: Sequence[str]) -> str:
    """A label, with a word on what the policy knows."""
    return f"{label} (clairvoyant)" if label in clairvoyant else label
