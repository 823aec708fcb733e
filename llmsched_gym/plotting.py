"""The looks that all figures share, for people who may not tell all colours apart."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from llmsched_gym.errors import one_line, printable

try:
    import matplotlib  # noqa: F401
except ValueError:  # MPLBACKEND names no backend; figures are drawn by Agg in any case
    os.environ.pop("MPLBACKEND", None)
    for _name in [one for one in sys.modules if one.startswith("matplotlib.")]:
        del sys.modules[_name]  # what has been imported without the rest

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

# Okabe and Ito's palette; the evaluated policy comes first and takes the strongest colour.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C6D31")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
BLACK = "#000000"


class Picture(Figure):
    """A figure whose texts mean what they say: names hold ``$``, ``_`` and worse, not formulas.

    Notebooks show it as it is, whatever backend they use.
    """

    def draw(self, renderer: Any) -> None:
        """Draw with plain texts."""
        for text in self.findobj(Text):
            assert isinstance(text, Text)
            text.set_parse_math(False)
            text.set_usetex(False)
            text.set_text(printable(text.get_text()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # boxes stand for such signs
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file)
        return file.getvalue()


def new_picture(title: str, width: float, height: float) -> Picture:
    """An empty figure under a title; sizes in inches."""
    figure = Picture(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize="medium", x=0.01, horizontalalignment="left")
    return figure


def new_figure(title: str, height: float) -> tuple[Picture, Axes]:
    """A figure of one panel under a title; ``height`` in inches."""
    figure = new_picture(title, 7.5, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def save(draw: Callable[[], Figure | None], path: Path) -> bool:
    """Write a figure and return whether there is one; where that fails, stderr has a line on it.

    No figure is worth the tables beside it.
    """
    try:
        figure = draw()
        if figure is not None:
            figure.savefig(path, format="png")
    except Exception as error:
        path.unlink(missing_ok=True)
        why = f"{type(error).__name__}: {one_line(error)}"
        print(f"{path.name} could not be drawn: {why}", file=sys.stderr)
        return False
    return figure is not None


def line_style(number: int, clairvoyant: bool) -> dict[str, Any]:
    """Of the line of a policy: the evaluated one is number 0."""
    if clairvoyant:
        return {"color": BLACK, "linestyle": (0, (1, 2)), "linewidth": 1.5}
    style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
    return style | {"linewidth": 2.6 if number == 0 else 1.5}


def shown_label(label: str, clairvoyant: Collection[str]) -> str:
    """A label, with a word on what the policy knows."""
    return legend_name(f"{label} (clairvoyant)" if label in clairvoyant else label)


def legend_name(name: str) -> str:
    """A name as a figure shows it: legends leave out those that begin with an underscore."""
    name = printable(name).replace("\n", " ")
    return f" {name}" if name.startswith("_") else name
