"""The looks that all figures share, for people who may not tell all colours apart."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmsched_gym.errors import need, one_line, printable

try:
    need("commands", "figures", "matplotlib")
    import matplotlib  # noqa: F401
except ValueError:  # MPLBACKEND names no backend; figures are drawn by Agg in any case
    os.environ.pop("MPLBACKEND", None)
    for _name in [one for one in sys.modules if one.startswith("matplotlib.")]:
        del sys.modules[_name]  # what has been imported without the rest

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

# Okabe and Ito's palette.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C6D31")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
BLACK = "#000000"
MARKERS = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "P",
    "X",
    "<",
    ">",
    "p",
    "h",
    "*",
    "d",
    "8",
    "H",
    "1",
    "2",
    "+",
    "3",
)

# The policies that everybody has, by name: the same colour, marker and dash in every figure. Those
# most often compared have Okabe and Ito's colours, the others the darker ones of Paul Tol's muted
# palette.
OWN_COLOURS = {
    "llmsched": COLOURS[0],
    "fcfs": COLOURS[1],
    "fair": COLOURS[2],
    "sjf": COLOURS[3],
    "srtf": COLOURS[4],
    "decima": COLOURS[5],
    "gittins": COLOURS[6],
    "ppo": "#332288",
    "las": "#117733",
    "argus": "#882255",
    "carbyne": "#999933",
    "weighted_fair": "#AA4499",
    "random": "#777777",
    "critical_path": "#44AA99",
    "topological_uncertainty": "#DDCC77",
    "llmsched_priced": "#6699CC",
}
FREE_COLOURS = ("#661100", "#CC6677")  # for policies of the user's own, before others


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


@dataclass(frozen=True)
class Look:
    """How a policy looks in every figure: as matplotlib takes colours, markers and dashes."""

    colour: str
    marker: str
    dash: Any
    clairvoyant: bool = False

    def line(self, strong: bool = False) -> dict[str, Any]:
        """Of a line; that of the evaluated policy is strong."""
        width = 2.6 if strong else 1.5
        return {
            **{"color": self.colour, "linestyle": self.dash, "linewidth": width},
            **{"marker": self.marker, "markersize": 4, "zorder": 3 if strong else 2},
        }

    def bar(self) -> dict[str, Any]:
        """Of a bar: its fill, edge and hatch."""
        if self.clairvoyant:
            return {"color": "white", "edgecolor": BLACK, "hatch": "///"}
        return {"color": self.colour, "edgecolor": "none"}


def looks_of(labels: Iterable[str], clairvoyant: Collection[str] = ()) -> dict[str, Look]:
    """How policies look, by label.

    Those of :data:`OWN_COLOURS` look the same whatever stands beside them, others take what is
    free, in their order. Clairvoyant ones are black and dotted, or hatched.
    """
    names = list(dict.fromkeys(labels))
    others = [one for one in names if one not in OWN_COLOURS and one not in clairvoyant]
    free = [*FREE_COLOURS, *(hue for name, hue in OWN_COLOURS.items() if name not in names)]
    own = [*OWN_COLOURS, *others]
    made: dict[str, Look] = {}
    for name in names:
        if name in clairvoyant:
            hidden = sum(one.clairvoyant for one in made.values())
            dots = ((0, (1, 2)), (0, (4, 2, 1, 2)))[hidden % 2]
            made[name] = Look(BLACK, ("None", "x")[hidden % 2], dots, clairvoyant=True)
            continue
        number = own.index(name)
        colour = OWN_COLOURS.get(name) or free[others.index(name) % len(free)]
        made[name] = Look(colour, MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)])
    return made


def shown_label(label: str, clairvoyant: Collection[str]) -> str:
    """A label, with a word on what the policy knows."""
    return legend_name(f"{label} (clairvoyant)" if label in clairvoyant else label)


def legend_name(name: str) -> str:
    """A name as a figure shows it: legends leave out those that begin with an underscore."""
    name = printable(name).replace("\n", " ")
    return f" {name}" if name.startswith("_") else name
