"""The graph of a job as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from numpy.typing import NDArray

from llmsched_gym.plotting import new_picture
from llmsched_gym.rendering.colours import DONE, EMPTY, INK, PAPER, RULE, ink_on, job_colour, mixed
from llmsched_gym.rendering.graph import JobGraph, Node, Status
from llmsched_gym.workload.job import Kind

ACROSS, DOWN = 1.75, 0.72  # inches from one stage to the next
IN_A_BAND, WITH_NAMES = 7, 42  # columns of a band, and how many in all are drawn with names
IN_A_SMALL_BAND = 30
TALLEST = 8.0  # inches
LONGEST_NAME = 22
LABELS = {
    Status.DONE: "done",
    Status.RUNNING: "running",
    Status.READY: "ready",
    Status.WAITING: "waiting",
    Status.PLACEHOLDER: "may follow",
}


def draw_job_graph(graph: JobGraph, names: Mapping[int, str], title: str = "") -> Figure:
    """Draw the stages of a job that are seen and what they do; what may follow is dashed.

    LLM stages have round corners, stages of tools have none. A long graph goes on in the next line.

    Parameters
    ----------
    graph
        What is seen of the job.
    names
        By the number of a stage in its job.
    title
        Of the figure.
    """
    columns, rows = graph.size
    named = columns <= WITH_NAMES
    in_a_band = min(columns, IN_A_BAND if named else IN_A_SMALL_BAND)
    bands = -(-columns // in_a_band)
    across = ACROSS if named else IN_A_BAND * ACROSS / IN_A_SMALL_BAND
    down = min(DOWN if named else 0.3, TALLEST / (bands * rows))
    height = down * bands * rows
    width = max(across * in_a_band, 4.5)
    figure = new_picture(title, width + 0.2, height + 0.9)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    centres = _centres(graph, in_a_band, across, down)
    size = (0.8 * across, min(0.62 * down, across))
    _draw_edges(axes, graph, centres, size, down)
    for node, centre in zip(graph.nodes, centres.tolist(), strict=True):
        text = _text(node, names) if named and down > 0.35 else ""
        _draw_node(axes, node, (centre[0], centre[1]), size, text, graph.job)
    figure.legend(handles=_legend(graph.job), loc="outside lower left", ncols=5, frameon=False,
                  fontsize="small", handlelength=1.4)  # fmt: skip
    return figure


def _centres(graph: JobGraph, in_a_band: int, across: float, down: float) -> NDArray[np.float64]:
    """Of the nodes, in inches from the upper left corner: [nodes, 2]."""
    column, row = graph.places[:, 0], graph.places[:, 1]
    fullest = np.bincount(column, minlength=1)[column] if len(column) else column
    band, place = np.divmod(column, in_a_band)
    rows = graph.size[1]
    y = (band * rows + rows / 2 + row - (fullest - 1) / 2) * down
    return np.column_stack([(place + 0.5) * across, y])


def _draw_edges(
    axes: Axes,
    graph: JobGraph,
    centres: NDArray[np.float64],
    size: tuple[float, float],
    down: float,
) -> None:
    colour = _shade(mixed(RULE, 0, 0.3))
    half, aside = size[0] / 2, min(0.15, 0.1 * size[0])
    for parent, child in graph.edges:
        (x0, y0), (x1, y1) = centres[parent].tolist(), centres[child].tolist()
        x0, x1 = x0 + half, x1 - half
        if x0 > x1:  # to the next line, between the lines
            between = y1 - 0.5 * down
            x = [x0, x0 + aside, x0 + aside, x1 - aside, x1 - aside]
            y = [y0, y0, between, between, y1]
            axes.plot(x, y, color=colour, linewidth=0.9, zorder=1)
            x0, y0 = x1 - aside, y1
        arrow = FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            arrowstyle="-|>",
            mutation_scale=8,
            color=colour,
            linewidth=0.9,
            shrinkA=0,
            shrinkB=0,
            zorder=1,
        )
        axes.add_patch(arrow)


def _text(node: Node, names: Mapping[int, str]) -> str:
    name = names.get(node.stage, str(node.stage))
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 1]}…"
    if node.status == Status.PLACEHOLDER:
        return f"revealed by\n{name}"
    done = f"{node.completed} of " if node.started > 0 and node.completed < node.tasks else ""
    return f"{name}\n{done}{node.tasks} task{'s' if node.tasks != 1 else ''}"


def _draw_node(
    axes: Axes,
    node: Node,
    centre: tuple[float, float],
    size: tuple[float, float],
    text: str,
    job: int,
) -> None:
    (x, y), (width, height) = centre, size
    look = _look(node.status, job)
    corner = 0.0 if node.kind == Kind.REGULAR else min(0.12, 0.4 * height)
    inner = (x - width / 2 + corner, y - height / 2 + corner)
    axes.add_patch(
        FancyBboxPatch(
            inner,
            width - 2 * corner,
            height - 2 * corner,
            boxstyle="square,pad=0" if corner == 0 else f"round,pad={corner}",
            zorder=2,
            **look,
        )
    )
    if text:
        fill = job_colour(job) if node.status == Status.RUNNING else DONE
        solid = node.status in (Status.DONE, Status.RUNNING)
        colour = ink_on(fill) if solid else INK
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color=_shade(colour), zorder=3)


def _look(status: Status, job: int) -> dict[str, Any]:
    fill, edge, thick = {
        Status.DONE: (DONE, DONE, 1.0),
        Status.RUNNING: (job_colour(job), INK, 1.6),
        Status.READY: (PAPER, INK, 1.6),
        Status.WAITING: (EMPTY, mixed(RULE, 0, 0.15), 1.0),
        Status.PLACEHOLDER: (PAPER, DONE, 1.2),
    }[status]
    dashed = "--" if status == Status.PLACEHOLDER else "-"
    return {"fc": _shade(fill), "ec": _shade(edge), "lw": thick, "ls": dashed}


def _legend(job: int) -> list[Patch]:
    return [Patch(label=name, **_look(status, job)) for status, name in LABELS.items()]


def _shade(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour as matplotlib counts."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
