"""The cluster as a picture: who ran where of late, and the jobs that wait."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.cluster.timeline import Timeline, timeline
from llmsched_gym.rendering.canvas import Canvas, width_of
from llmsched_gym.rendering.colours import (
    DONE,
    EMPTY,
    FAINT,
    INK,
    PAPER,
    RULE,
    Colour,
    job_colour,
    mixed,
)
from llmsched_gym.rendering.graph import JobGraph, Node, Status, job_graph
from llmsched_gym.rendering.lanes import draw_lanes, nice
from llmsched_gym.workload.job import Kind
from llmsched_gym.workload.template import TemplateTable

WIDTH, HEIGHT = 1280, 720
MARGIN, TOP, BOTTOM = 24, 112, 704
LANES_END, JOBS = 784, 812  # where the two columns end and begin
JOB_ROW, MOST_NODES, IN_A_COLUMN = 26, 200, 3
TOKENS_SHOWN = 4000  # the axis is about as long as a full engine takes for an answer of so many


def draw_frame(
    state: ClusterState, templates: TemplateTable, applications: Sequence[str]
) -> NDArray[np.uint8]:
    """What may be known of a cluster now, uint8 [720, 1280, 3].

    On the left is who ran where: a lane for each slot of the engines and each tool, a bar for each
    task, in the colour (and, where there is room, with the number) of its job. On the right are the
    jobs in the system, the oldest first, with their graphs as far as they are seen.

    Parameters
    ----------
    state : the cluster at any moment; templates : what past jobs tell of the hidden stages;
    applications : the names of the applications.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    tasks = timeline(state)
    _draw_header(canvas, state, tasks)
    _draw_work(canvas, state, tasks)
    _draw_jobs(canvas, state, templates, applications)
    return canvas.array()


def _draw_header(canvas: Canvas, state: ClusterState, tasks: Timeline) -> None:
    clock, jct_s = state.clock[0], tasks.jct_s
    slots = state.sequences.size
    parts = (
        (f"{tasks.now_s:,.1f} s", "time"),
        (f"{clock['finished']} of {clock['num_jobs']}", "jobs done"),
        (str(clock["active"]), "jobs in the system"),
        (str(clock["num_jobs"] - clock["arrived"]), "jobs to arrive"),
        (f"{clock['llm_running'] / slots:.0%}", f"of {slots:,} LLM slots busy"),
        (f"{jct_s.mean():,.1f} s" if len(jct_s) else "none yet", "mean completion time so far"),
    )
    for number, (value, name) in enumerate(parts):
        x = MARGIN + number * 205
        canvas.text(x, 26, value, INK, 24)
        canvas.text(x, 52, name, FAINT, 13)
    canvas.line(0, 72, WIDTH, 72, RULE)


def _draw_work(canvas: Canvas, state: ClusterState, tasks: Timeline) -> None:
    span = _span_s(state)
    begin = max(0.0, tasks.now_s - span)
    capacity = int(state.latency[0]["kv_capacity"])
    held = [f"KV {share:.0%}" for share in (state.engines["reserved"] / capacity).tolist()]
    corners = (MARGIN, TOP, LANES_END, BOTTOM)
    rows = draw_lanes(canvas, tasks, corners, (begin, begin + span), held)
    busy = state.clock[0]["llm_running"]
    tools = len(state.executors)
    title = f"Engines: {busy:,} of {state.sequences.size:,} slots busy"
    title += f"     Tools: {tools - state.clock[0]['regular_free']:,} of {tools:,} busy"
    canvas.text(MARGIN, 94, title, INK, 15)
    sizes = (
        (rows.engines, tasks.engines, "engines"),
        (rows.slots, tasks.slots, "slots"),
        (rows.tools, tools, "tools"),
    )
    hidden = [f"{shown} of {there:,} {name}" for shown, there, name in sizes if shown < there]
    if hidden:
        text = f"drawn: the first {', '.join(hidden)}"
        canvas.text(LANES_END, 94, text, FAINT, 12, "right")


def _span_s(state: ClusterState) -> float:
    """How long the axis of time is: the same all through an episode."""
    latency = state.latency[0]
    iteration = latency["a"] + latency["c"] * state.sequences.shape[1]
    return nice(max(1e-9, float(TOKENS_SHOWN * iteration) / TICKS_PER_SECOND))


def _draw_jobs(
    canvas: Canvas, state: ClusterState, templates: TemplateTable, applications: Sequence[str]
) -> None:
    active = state.active[: state.clock[0]["active"]]
    rows = (BOTTOM - TOP - 40) // JOB_ROW
    oldest = f", the oldest {rows} of {len(active):,}" if len(active) > rows else ""
    canvas.text(JOBS, 94, f"Jobs in the system{oldest}", INK, 15)
    canvas.text(WIDTH - MARGIN, 94, "hollow: nothing runs", FAINT, 12, "right")
    for place, job in enumerate(active[:rows].tolist()):
        row, y = state.jobs[job], TOP + (place + 0.5) * JOB_ROW
        colour = job_colour(job)
        running = int(row["running_tasks"]) > 0
        canvas.mark(JOBS + 7, y, 13, False, colour if running else PAPER, colour)
        name = f"{job}  {applications[row['application']]}"
        canvas.text(JOBS + 22, y, name, INK, 13, room=186)
        age_s = (state.clock[0]["now"] - row["arrival"]) / TICKS_PER_SECOND
        canvas.text(JOBS + 252, y, f"{age_s:,.0f} s", FAINT, 12, "right")
        if row["num_stages"] <= 10 * MOST_NODES:
            graph = job_graph(state, templates, job)
            draw_graph(canvas, graph, (JOBS + 264, y - 11, WIDTH - MARGIN, y + 11))
    _draw_legend(canvas)


def _draw_legend(canvas: Canvas) -> None:
    y, x = BOTTOM - 10, JOBS + 6.0
    grey = mixed(DONE, 255, 0.2)
    shown = (
        ("done", Status.DONE),
        ("running", Status.RUNNING),
        ("ready", Status.READY),
        ("waiting", Status.WAITING),
        ("may follow", Status.PLACEHOLDER),
    )
    for name, status in shown:
        _draw_node(canvas, x, y, 11, Node(0, status, Kind.LLM), grey)
        canvas.text(x + 10, y, name, FAINT, 12)
        x += 28 + width_of(name, 12)
    for name, kind in (("LLM", Kind.LLM), ("tool", Kind.REGULAR)):
        _draw_node(canvas, x, y, 11, Node(0, Status.DONE, kind), grey)
        canvas.text(x + 10, y, name, FAINT, 12)
        x += 28 + width_of(name, 12)


def draw_graph(canvas: Canvas, graph: JobGraph, corners: tuple[float, float, float, float]) -> None:
    """Draw a small graph in a rectangle: left, upper, right and lower edge in pixels."""
    left, top, right, bottom = corners
    if len(graph.nodes) > MOST_NODES:
        done = sum(node.status == Status.DONE for node in graph.nodes)
        text = f"{done} of {len(graph.nodes)} stages done"
        canvas.text(left, (top + bottom) / 2, text, FAINT, 12)
        return
    columns, rows = _packed(graph.places)
    across = min(20.0, (right - left) / (columns.max(initial=0) + 1))
    size = round(min(0.72 * across, 7 if rows.any() else 12))
    size = max(3, size)
    fullest = np.bincount(columns)[columns]
    x = left + (columns + 0.5) * across
    y = (top + bottom) / 2 + (rows - (fullest - 1) / 2) * (bottom - top) / IN_A_COLUMN
    places = np.column_stack([x, y]).tolist()
    for parent, child in graph.edges:
        (x0, y0), (x1, y1) = places[parent], places[child]
        canvas.line(x0, y0, x1, y1, RULE)
    colour = job_colour(graph.job)
    for node, (node_x, node_y) in zip(graph.nodes, places, strict=True):
        _draw_node(canvas, node_x, node_y, size, node, colour)


def _packed(places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns and rows of nodes, where a column of many nodes becomes several: [nodes] each."""
    column, row = places.T
    wide = -(-np.bincount(column) // IN_A_COLUMN)  # columns that each becomes
    begins = np.cumsum(wide) - wide
    return begins[column] + row // IN_A_COLUMN, row % IN_A_COLUMN


def _draw_node(canvas: Canvas, x: float, y: float, size: int, node: Node, colour: Colour) -> None:
    if node.status == Status.PLACEHOLDER:
        canvas.mark(x, y, size, True, PAPER, PAPER)
        canvas.dashed(x, y, size, DONE)
        return
    fill, edge = {
        Status.DONE: (DONE, DONE),
        Status.RUNNING: (colour, INK),
        Status.READY: (PAPER, INK),
        Status.WAITING: (EMPTY, mixed(RULE, 0, 0.15)),
    }[node.status]
    canvas.mark(x, y, size, node.kind == Kind.LLM, fill, edge)
