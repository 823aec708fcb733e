"""Who ran where and when, as a figure: one panel a policy, on the same axis of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from llmsched_gym.cluster.timeline import Timeline
from llmsched_gym.errors import printable
from llmsched_gym.plotting import new_picture
from llmsched_gym.rendering.colours import EMPTY, JOB_COLOURS, ink_on, job_colour, tint

WIDTH, TALLEST = 10.0, 8.5  # inches
LANE, LABELLED = 0.105, 0.085  # inches: the height of a lane, and the least that holds a number
GAP, LARGE_GAP = 0.8, 0.03  # between engines: lanes, or a share of those of one if that is more
THIN = 0.04  # inches: bars of lower lanes have neither edges nor hatches
MOST_LANES = 160  # beyond, only slots and tools that were ever used are drawn
MOST_NUMBERS, MOST_NAMES = 400, 24  # in one panel
LONGEST_NAME = 60
KEY = "(a colour{}: a job; hatched: on tools; a triangle: an arrival)"


@dataclass(frozen=True)
class _Panel:
    """Where the lanes of a timeline are, counted in lanes from the top."""

    tasks: Timeline
    slots: int
    tools: int

    @classmethod
    def of(cls, tasks: Timeline) -> _Panel:
        slots, tools = tasks.slots, tasks.regular_executors
        if tasks.engines * slots + tools > MOST_LANES:
            slots = int(tasks.lane.max(initial=0)) + 1
            tools = int(tasks.executor[~tasks.llm].max(initial=0)) + 1
        return cls(tasks, slots, tools)

    @property
    def block(self) -> float:
        return self.slots + max(GAP, LARGE_GAP * self.slots)

    @property
    def first_tool(self) -> float:
        return self.tasks.engines * self.block

    @property
    def lanes(self) -> float:
        return self.first_tool + self.tools

    def tops(self) -> NDArray[np.float64]:
        """The upper edge of each task: [N]."""
        tasks = self.tasks
        on_engine = tasks.executor * self.block + tasks.lane
        return np.where(tasks.llm, on_engine, self.first_tool + tasks.executor)


def gantt(
    timelines: Timeline | Mapping[str, Timeline], title: str = "", until_s: float | None = None
) -> Figure:
    """Draw who ran where and when, coloured by job; tools are hatched, triangles are arrivals.

    Parameters
    ----------
    timelines
        One, or several by the names of their policies: best of the same jobs.
    title
        Of the figure.
    until_s
        The end of the axis of time, seconds; by default the end of the longest.

    Raises
    ------
    ValueError
        if there is no timeline.
    """
    named = {"": timelines} if isinstance(timelines, Timeline) else dict(timelines)
    if not named:
        raise ValueError("timelines: at least one is needed")
    end_s = max(one.now_s for one in named.values()) if until_s is None else float(until_s)
    panels = [_Panel.of(one.at(end_s)) for one in named.values()]
    heights = [max(0.5, LANE * panel.lanes) for panel in panels]
    room = TALLEST - 0.7 - 0.5 * len(panels)
    squeezed = min(1.0, room / sum(heights))
    figure = new_picture(title, WIDTH, squeezed * sum(heights) + 0.7 + 0.5 * len(panels))
    axes = figure.subplots(
        len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axis, name, panel, height in zip(axes, named, panels, heights, strict=True):
        _draw_panel(axis, panel, end_s, squeezed * height / panel.lanes)
        axis.set_title(_summary(name, panel.tasks), fontsize="small", loc="left", pad=13)
    numbered = " and a number" if squeezed * LANE >= LABELLED else ""
    axes[-1].set_xlabel(f"time, s {KEY.format(numbered)}", fontsize="small")
    return figure


def _summary(name: str, tasks: Timeline) -> str:
    jct_s, jobs = tasks.jct_s, len(tasks.arrival_s)
    mean = f", mean completion time {jct_s.mean():,.1f} s" if len(jct_s) else ""
    text = f"{len(jct_s)} of {jobs} jobs done by {tasks.now_s:,.0f} s{mean}"
    shown = " ".join(printable(name).split())
    shown = shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"
    return f"{shown}: {text}" if shown else text


def _draw_panel(axes: Axes, panel: _Panel, end_s: float, lane: float) -> None:
    """``lane`` is the height of a lane in inches."""
    tasks = panel.tasks
    _draw_rows(axes, panel, end_s)
    top = panel.tops()
    end = np.where(np.isnan(tasks.end_s), tasks.now_s, tasks.end_s)
    colour = tasks.job % len(JOB_COLOURS)
    edge, thick = (0.0, 1.0) if lane < THIN else (0.4, 0.92)
    for llm in (True, False):
        for number in np.unique(colour[tasks.llm == llm]).tolist():
            rows = (tasks.llm == llm) & (colour == number)
            solid = _shade(job_colour(number))
            axes.add_collection(
                PolyCollection(
                    _bars(tasks.start_s[rows], end[rows], top[rows], thick).tolist(),
                    facecolors=solid if llm or lane < THIN else _shade(tint(number)),
                    edgecolors="white" if llm else solid,
                    linewidths=edge,
                    hatch=None if llm or lane < THIN else "//////",
                    zorder=2,
                ),
                autolim=False,
            )
    if lane >= LABELLED:
        _draw_numbers(axes, tasks, top, end, (WIDTH - 1.0) * 72 / end_s if end_s else 0.0)
    arrived = np.flatnonzero(~np.isnan(tasks.arrival_s))
    axes.scatter(
        tasks.arrival_s[arrived],
        np.ones(len(arrived)),
        transform=axes.get_xaxis_transform()
        + ScaledTranslation(0, 5 / 72, axes.figure.dpi_scale_trans),
        s=16,
        marker="v",
        c=[_shade(job_colour(job)) for job in arrived.tolist()],
        linewidths=0,
        clip_on=False,
        zorder=3,
    )


def _bars(
    start: NDArray[np.float64], end: NDArray[np.float64], top: NDArray[np.float64], thick: float
) -> NDArray[np.float64]:
    """The corners of rectangles: [N, 4, 2]."""
    x = np.stack([start, end, end, start], axis=1)
    bottom = top + thick
    y = np.stack([top, top, bottom, bottom], axis=1)
    return np.stack([x, y], axis=2)


def _draw_rows(axes: Axes, panel: _Panel, end_s: float) -> None:
    block, engines = panel.block, panel.tasks.engines
    for number in range(engines):
        axes.axhspan(number * block, number * block + panel.slots, color=_shade(EMPTY), zorder=0)
    axes.axhspan(panel.first_tool, panel.lanes, color=_shade(EMPTY), zorder=0)
    step = -(-engines // MOST_NAMES)
    named = range(0, engines, step)
    places = [number * block + panel.slots / 2 for number in named]
    places.append(panel.first_tool + panel.tools / 2)
    axes.set_yticks(places, [*(f"engine {number}" for number in named), "tools"], fontsize="small")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize="small")
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color="0.8", linewidth=0.6, zorder=1)
    axes.set_xlim(0, max(end_s, 1e-9))
    axes.set_ylim(panel.lanes, 0)


def _draw_numbers(
    axes: Axes,
    tasks: Timeline,
    top: NDArray[np.float64],
    end: NDArray[np.float64],
    points_a_second: float,
) -> None:
    """The numbers of the jobs, in the longest bars that hold them."""
    length = (end - tasks.start_s) * points_a_second
    for task in np.argsort(-length, kind="stable")[:MOST_NUMBERS].tolist():
        job = int(tasks.job[task])
        if length[task] < 3 + 3.6 * len(str(job)):
            continue
        fill = job_colour(job) if tasks.llm[task] else tint(job)
        axes.text(
            (tasks.start_s[task] + end[task]) / 2,
            top[task] + 0.46,
            str(job),
            fontsize=5.5,
            color=_shade(ink_on(fill)),
            ha="center",
            va="center",
            clip_on=True,
            bbox=None if tasks.llm[task] else {"pad": 0.6, "fc": _shade(fill), "ec": "none"},
        )


def _shade(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour as matplotlib counts."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
