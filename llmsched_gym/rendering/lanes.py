"""Lanes: a row for each slot of the engines and each tool, a bar for each task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.timeline import Timeline
from llmsched_gym.rendering.canvas import Canvas, width_of
from llmsched_gym.rendering.colours import EMPTY, FAINT, INK, PAPER, RULE, ink_on, job_colour, tint

LABELS = 78  # pixels on the left
BETWEEN_ENGINES, BEFORE_TOOLS, AXIS = 5, 12, 22  # pixels
LEAST, MOST = 3, 28  # pixels of a lane
MOST_SLOTS, MOST_TOOLS = 64, 32  # shown where there is no room for more


@dataclass(frozen=True)
class Rows:
    """How many of the lanes are shown, and how high each is.

    Attributes
    ----------
    engines, slots, tools : of which the first are shown; ``slots`` of each engine.
    lane : height of a lane, pixels.
    """

    engines: int
    slots: int
    tools: int
    lane: float

    @classmethod
    def fit(cls, engines: int, slots: int, tools: int, height: float) -> Rows:
        """As many as there is room for in a height, the tools in a third of it at most."""
        room = height - AXIS - BEFORE_TOOLS
        slots = min(slots, MOST_SLOTS, max(1, int((2 * room / 3 - BETWEEN_ENGINES) / LEAST)))
        tools = min(tools, MOST_TOOLS, max(1, int(room / 3 / LEAST)))
        block = slots * LEAST + BETWEEN_ENGINES
        engines = min(engines, max(1, int((room - tools * LEAST) / block)))
        lane = (room - engines * BETWEEN_ENGINES) / (engines * slots + tools)
        return cls(engines, slots, tools, min(float(MOST), lane))

    @property
    def height(self) -> float:
        """Of all lanes, without the axis, pixels."""
        return self.first_tool + self.tools * self.lane

    @property
    def block(self) -> float:
        """From one engine to the next, pixels."""
        return self.slots * self.lane + BETWEEN_ENGINES

    @property
    def first_tool(self) -> float:
        """Where the tools begin."""
        return self.engines * self.block - BETWEEN_ENGINES + BEFORE_TOOLS

    def tops_of(self, tasks: Timeline) -> NDArray[np.float64]:
        """The upper edge of the lane of each task, NaN where it is not shown: [N]."""
        on_engine = tasks.executor * self.block + tasks.lane * self.lane
        on_tool = self.first_tool + tasks.executor * self.lane
        shown = np.where(
            tasks.llm,
            (tasks.executor < self.engines) & (tasks.lane < self.slots),
            tasks.executor < self.tools,
        )
        return np.where(shown, np.where(tasks.llm, on_engine, on_tool), np.nan)


def draw_lanes(
    canvas: Canvas,
    tasks: Timeline,
    corners: tuple[float, float, float, float],
    span_s: tuple[float, float],
    notes: Sequence[str] = (),
) -> Rows:
    """Draw what ran from one moment to another; how many of the lanes are shown.

    Parameters
    ----------
    canvas
        To draw on.
    tasks
        What happened so far.
    corners
        Left, upper, right and lower edge, in pixels.
    span_s
        The ends of the axis of time, in seconds.
    notes
        A second line for the labels of the engines, where there is room.
    """
    left, top, right, bottom = corners
    left += LABELS
    rows = Rows.fit(tasks.engines, tasks.slots, tasks.regular_executors, bottom - top)
    _draw_rows(canvas, rows, (left, top, right), notes)
    _draw_axis(canvas, (left, top, right, top + rows.height), span_s)
    _draw_bars(canvas, rows, tasks, (left, top, right), span_s)
    if span_s[0] <= tasks.now_s < span_s[1]:
        x = left + (tasks.now_s - span_s[0]) / (span_s[1] - span_s[0]) * (right - left)
        canvas.line(x, top, x, top + rows.height, INK)
    return rows


def _draw_rows(
    canvas: Canvas, rows: Rows, corner: tuple[float, float, float], notes: Sequence[str]
) -> None:
    left, top, right = corner
    blocks = [(top + number * rows.block, rows.slots) for number in range(rows.engines)]
    blocks.append((top + rows.first_tool, rows.tools))
    gap = 1 if rows.lane >= 5 else 0
    for y, lanes in blocks:
        canvas.box(left, y, right, y + lanes * rows.lane - gap, EMPTY)
        for lane in range(1, lanes if gap else 1):
            between = round(y + lane * rows.lane) - 1
            canvas.line(left, between, right - 1, between, PAPER)
    names = [f"engine {number}" for number in range(rows.engines)] + ["tools"]
    taken = -1.0
    for number, (name, (y, lanes)) in enumerate(zip(names, blocks, strict=True)):
        middle, height = y + lanes * rows.lane / 2, lanes * rows.lane
        size = 13 if height >= 15 else 11
        if middle - size / 2 < taken and name != "tools":
            continue  # no room for a label at every engine
        if number < min(len(notes), rows.engines) and height >= 32:
            canvas.text(left - 8, middle + 8, notes[number], FAINT, 11, "right")
            middle -= 8
        canvas.text(left - 8, middle, name, INK, size, "right")
        taken = middle + size / 2


def _draw_axis(
    canvas: Canvas, corners: tuple[float, float, float, float], span_s: tuple[float, float]
) -> None:
    left, top, right, bottom = corners
    begin, end = span_s
    step = nice((end - begin) / 8)
    scale = (right - left) / (end - begin)
    for number in range(math.ceil(begin / step - 1e-9), math.floor(end / step + 1e-9) + 1):
        x = left + (number * step - begin) * scale
        canvas.line(x, top, x, bottom + 3, RULE)
        label = f"{number * step:,.10g}"
        unit = " s" if x + width_of(f"{label} s", 12) / 2 < right + 20 else ""
        canvas.text(x, bottom + 12, f"{label}{unit}", FAINT, 12, "centre")


def _draw_bars(
    canvas: Canvas,
    rows: Rows,
    tasks: Timeline,
    corner: tuple[float, float, float],
    span_s: tuple[float, float],
) -> None:
    left, top, right = corner
    end_s = np.where(np.isnan(tasks.end_s), tasks.now_s, tasks.end_s)
    above = rows.tops_of(tasks) + top
    shown = np.flatnonzero((end_s >= span_s[0]) & (tasks.start_s < span_s[1]) & ~np.isnan(above))
    scale = (right - left) / (span_s[1] - span_s[0])
    x0 = np.clip(left + (tasks.start_s[shown] - span_s[0]) * scale, left, right - 1)
    x1 = np.clip(left + (end_s[shown] - span_s[0]) * scale, left, right)
    gap = 1 if rows.lane >= 5 else 0
    size = min(12, int(rows.lane) - 1)
    columns = (x0, x1, above[shown], tasks.job[shown], tasks.llm[shown])
    for begin, end, y, job, llm in zip(*(one.tolist() for one in columns), strict=True):
        colour = job_colour(job)
        framed = gap > 0 and not llm  # thin lanes have room for no frame, and tints would be pale
        fill, edge = (tint(job), colour) if framed else (colour, None)
        canvas.box(begin, y, end - gap, y + rows.lane - gap, fill, edge)
        if size >= 8 and end - begin >= 14 and end - begin > width_of(str(job), size) + 4:
            middle = (begin + end - gap) / 2, y + (rows.lane - gap) / 2
            canvas.text(*middle, str(job), ink_on(fill), size, "centre")


def nice(least: float) -> float:
    """The least of 1, 2, 5, 10, ... (and such numbers below 1) that is at least that much."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least * (1 - 1e-9))
