"""The looks that all figures share, for people who may not tell all colours apart."""

from __future__ import annotations

import io
import os
import sys
import textwrap
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

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

# Okabe and Ito's palette.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C6D31")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
BLACK = "#000000"
MARKERS = (
    *("o", "s", "^", "D", "v", "P", "X", "<", ">", "p"),
    *("h", "8", "+", "1", "2", "*", "d", "H", "3"),
)
THIN = ("+", "1", "2", "3", "x")  # which have nothing to fill
WIDEST, HIGHEST, DPI = 2100, 1000, 150  # pixels: no figure is larger than a screen
FAR = 8.0  # times the least, beyond which the largest number would leave no room for the others
LONGEST_NAME, MOST_TITLE = 32, 4  # signs of a name beside an axis, lines of a title

# The policies that everybody has, by name: the same colour, marker and dash in every figure. Those
# most often compared have Okabe and Ito's colours and two of Paul Tol's, the others what is
# furthest from these where red, green or blue is not seen (tests/test_plotting.py).
OWN_COLOURS = {
    "llmsched": COLOURS[0],
    "fcfs": COLOURS[1],
    "fair": COLOURS[2],
    "sjf": COLOURS[3],
    "srtf": COLOURS[4],
    "decima": COLOURS[5],
    "gittins": COLOURS[6],
    "ppo": "#332288",
    "las": "#8FC76B",
    "argus": "#882255",
    "carbyne": "#9084FC",
    "weighted_fair": "#0000FC",
    "random": "#483000",
    "critical_path": "#E4B4B4",
    "topological_uncertainty": "#600C60",
    "llmsched_priced": "#8A2BE2",
    "resource_srtf": "#9C4884",
    "gnn": "#D800B4",
    "resource_srtf_begun": "#243024",
}
FREE_COLOURS = ("#54603C", "#FC306C")  # for policies of the user's own, before others


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
    """An empty figure under a title, as large as a screen at most; sizes in inches."""
    dpi = min(DPI, WIDEST / width, HIGHEST / height)
    figure = Picture(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    heading = figure.suptitle("", fontsize="medium", x=0.01, horizontalalignment="left")
    heading.set_parse_math(False)
    heading.set_usetex(False)
    heading.set_text("\n".join(_lines(heading, title, 0.98 * dpi * width)))
    return figure


def _lines(text: Text, title: str, room: float) -> list[str]:
    """The lines of a title, as wide as ``room`` in pixels at most."""

    def fits(line: str) -> bool:
        text.set_text(line)
        return text.get_window_extent().width <= room

    lines: list[str] = []
    for line in printable(title).split("\n"):
        signs = len(line)
        while not all(map(fits, wrapped := textwrap.wrap(line, max(1, signs)) or [""])):
            signs = min(signs - 1, int(0.95 * signs))
        lines += wrapped
    return lines if len(lines) <= MOST_TITLE else [*lines[: MOST_TITLE - 1], "…"]


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
            **{"marker": self.marker, "markersize": 5, "zorder": 3 if strong else 2},
        }

    def bar(self) -> dict[str, Any]:
        """Of a bar: its fill, edge and hatch."""
        if self.clairvoyant:
            return {"color": "white", "edgecolor": BLACK, "hatch": "///"}
        return {"color": self.colour, "edgecolor": "none"}

    def dot(self) -> dict[str, Any]:
        """Of a mark in place of a bar, where bars cannot begin at 0."""
        colour, fill = (BLACK, "white") if self.clairvoyant else (self.colour, self.colour)
        marker = "o" if self.marker == "None" else self.marker
        edge = 2.0 if marker in THIN else 1.0
        return {
            **{"color": colour, "markerfacecolor": fill, "marker": marker},
            **{"markersize": 8, "markeredgewidth": edge, "zorder": 3},
        }


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
    """A label beside an axis, with a word on what the policy knows; a long one loses its middle."""
    name = legend_name(label)
    if len(name) > LONGEST_NAME:
        end = LONGEST_NAME // 2
        name = f"{name[: LONGEST_NAME - 1 - end]}…{name[-end:]}"
    return f"{name} (clairvoyant)" if label in clairvoyant else name


def legend_name(name: str) -> str:
    """A name as a figure shows it: legends leave out those that begin with an underscore."""
    name = printable(name).replace("\n", " ")
    return f" {name}" if name.startswith("_") else name


def far_apart(values: ArrayLike) -> bool:
    """Whether numbers, all above 0 or NaN, go on no linear axis together."""
    numbers = np.asarray(values, np.float64)
    least = np.nanmin(numbers)
    return bool(least > 0 and np.nanmax(numbers) > FAR * least)


def log_axis(axis: Axis, set_scale: Callable[[str], None]) -> None:
    """Make an axis logarithmic, with plain numbers, as many as there is room for."""

    def between(value: float, _: int | None) -> str:
        low, high = sorted(axis.get_view_interval())
        decades = np.log10(high / low)
        digit = round(value / 10 ** np.floor(np.log10(value)), 6)
        room = (2, 3, 4, 6) if decades < 1.7 else (2, 5) if decades < 2.5 else ()
        return f"{value:g}" if decades < 0.6 or digit in room else ""

    set_scale("log")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(between))
