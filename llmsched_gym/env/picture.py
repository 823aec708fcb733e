"""The cluster as a picture: engines and tools by the jobs they work for, and the jobs themselves.

Drawn with Pillow alone, so that no plotting library and no display is asked for anything.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND

WIDTH, HEIGHT = 1280, 720
MARGIN, TOP, LEFT_END, RIGHT = 24, 64, 780, 812  # where the two columns begin and end
ENGINES_END, TOOLS_TOP = 506, 530  # rows of pixels
JOB_ROW, MOST_ENGINES, MOST_SLOTS = 24, 48, 256
PAPER, INK, FAINT, EMPTY = "#ffffff", "#1f2430", "#737a87", "#eceef2"
DONE, RUNNING, READY = "#5b6472", "#2f7ed8", "#f0b429"


def draw_cluster(state: ClusterState, applications: Sequence[str]) -> NDArray[np.uint8]:
    """What an agent may know of a cluster now, uint8 [720, 1280, 3].

    A colour is a job, the same one all through the episode. Slots and tools have the colour (and,
    where there is room, the number) of the job they work for. Of each job the tasks that are
    done, running and ready to run are counted.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    canvas = ImageDraw.Draw(image)
    _draw_header(canvas, state)
    _draw_engines(canvas, state)
    _draw_tools(canvas, state)
    _draw_jobs(canvas, state, applications)
    return np.array(image)


def _draw_header(canvas: Any, state: ClusterState) -> None:
    clock = state.clock[0]
    finished, jobs = int(clock["finished"]), int(clock["num_jobs"])
    done = state.jobs[state.jobs["completion"] >= 0]
    jct = (done["completion"] - done["arrival"]) / TICKS_PER_SECOND
    mean = f"{jct.mean():,.1f} s" if finished else "none yet"
    parts = (
        (f"{clock['now'] / TICKS_PER_SECOND:,.1f} s", "time"),
        (f"{finished} of {jobs}", "jobs done"),
        (f"{clock['active']}", "in system"),
        (f"{jobs - clock['arrived']}", "to arrive"),
        (mean, "mean completion time"),
    )
    for number, (value, name) in enumerate(parts):
        x = MARGIN + number * 250
        canvas.text((x, 10), value, INK, _font(22))
        canvas.text((x, 38), name, FAINT, _font(13))


def _draw_engines(canvas: Any, state: ClusterState) -> None:
    engines, slots = state.sequences.shape
    shown = min(engines, MOST_ENGINES)
    title = f"LLM engines: {state.clock[0]['llm_running']} of {engines * slots} slots busy"
    if shown < engines:
        title += f" (the first {shown} engines of {engines})"
    canvas.text((MARGIN, TOP), title, INK, _font(16))
    top = TOP + 28
    height = min(64.0, (ENGINES_END - top) / shown)
    size = 13 if height >= 16 else max(6, int(height) - 1)
    left, capacity = MARGIN + 130, int(state.latency[0]["kv_capacity"])
    width = (LEFT_END - left) / min(slots, MOST_SLOTS)
    for number in range(shown):
        engine, y = state.engines[number], top + number * height
        held = f"engine {number}   KV {engine['reserved'] / capacity:.0%}"
        canvas.text((MARGIN, y + height / 2), held, FAINT, _font(size), "lm")
        bottom = y + height - min(6.0, height / 4)
        for slot in range(min(slots, MOST_SLOTS)):
            busy = slot < engine["running"]
            job = _job_of(state, state.sequences[number, slot]["task"]) if busy else -1
            _draw_cell(canvas, left + slot * width, y, left + (slot + 1) * width, bottom, job)


def _draw_tools(canvas: Any, state: ClusterState) -> None:
    tools = len(state.executors)
    size = 46
    while size > 6 and -(-tools // ((LEFT_END - MARGIN) // size)) * size > HEIGHT - TOOLS_TOP - 44:
        size -= 1
    columns = (LEFT_END - MARGIN) // size
    shown = min(tools, columns * ((HEIGHT - TOOLS_TOP - 44) // size))
    title = f"Tools: {tools - state.clock[0]['regular_free']} of {tools} busy"
    if shown < tools:
        title += f" (the first {shown} of {tools})"
    canvas.text((MARGIN, TOOLS_TOP), title, INK, _font(16))
    for number in range(shown):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * size, TOOLS_TOP + 28 + row * size
        gap = max(1, size // 8)
        job = _job_of(state, state.executors[number]["task"])
        _draw_cell(canvas, x, y, x + size, y + size - gap, job)


def _draw_cell(canvas: Any, x0: float, y0: float, x1: float, y1: float, job: int) -> None:
    """A slot or a tool; job -1 is none."""
    x1 -= min(3.0, (x1 - x0) / 4)
    canvas.rectangle((x0, y0, max(x0, x1), max(y0, y1)), EMPTY if job < 0 else _colour(job))
    if job >= 0 and x1 - x0 >= 18 and y1 - y0 >= 12:
        size = 13 if job < 1000 and x1 - x0 >= 26 else 9
        canvas.text(((x0 + x1) / 2, (y0 + y1) / 2), str(job), INK, _font(size), "mm")


def _draw_jobs(canvas: Any, state: ClusterState, applications: Sequence[str]) -> None:
    canvas.text((RIGHT, TOP), "Jobs in the system, tasks:", INK, _font(16))
    x = RIGHT + 208.0
    for name, colour in (("done", DONE), ("running", RUNNING), ("ready", READY)):
        canvas.rectangle((x, TOP + 5, x + 11, TOP + 16), colour)
        canvas.text((x + 16, TOP + 2), name, INK, _font(13))
        x += 76
    active = state.active[: state.clock[0]["active"]]
    rows = (HEIGHT - TOP - 60) // JOB_ROW
    for place, job in enumerate(active[:rows].tolist()):
        counts, y = _task_counts(state, job), TOP + 28 + place * JOB_ROW
        application = applications[state.jobs[job]["application"]]
        canvas.rectangle((RIGHT, y + 2, RIGHT + 15, y + 17), _colour(job))
        canvas.text((RIGHT + 22, y + 2), f"{job}  {_short(application)}", INK, _font(13))
        age = (state.clock[0]["now"] - state.jobs[job]["arrival"]) / TICKS_PER_SECOND
        canvas.text((RIGHT + 264, y + 2), f"{age:,.0f} s", FAINT, _font(13), "ra")
        x = RIGHT + 276.0
        for number, colour in zip(counts, (DONE, RUNNING, READY), strict=True):
            canvas.text((x + 28, y + 2), str(number), INK if number else FAINT, _font(13), "ra")
            canvas.rectangle((x, y + 18, x + 28, y + 20), colour if number else EMPTY)
            x += 36
    if len(active) > rows:
        more = f"and {len(active) - rows} more"
        canvas.text((RIGHT, TOP + 30 + rows * JOB_ROW), more, FAINT, _font(13))


def _task_counts(state: ClusterState, job: int) -> tuple[int, int, int]:
    """Tasks of a job that are done, running, and ready to run."""
    row = state.jobs[job]
    stages = state.stages[row["first_stage"] : row["first_stage"] + row["num_stages"]]
    ready = (stages["visible"] == 1) & (stages["unfinished_parents"] == 0)
    waiting = (stages["num_tasks"] - stages["started_tasks"])[ready].sum()
    return int(row["completed_tasks"]), int(row["running_tasks"]), int(waiting)


def _job_of(state: ClusterState, task: int) -> int:
    return -1 if task < 0 else int(state.stages[state.tasks[task]["stage"]]["job"])


def _short(name: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return printable if len(printable) <= 26 else f"{printable[:25]}…"


@cache
def _colour(job: int) -> tuple[int, int, int]:
    """Neighbours differ: hues go round by the golden ratio."""
    tone = colorsys.hsv_to_rgb(job * 0.618034 % 1.0, 0.45, (0.95, 0.82)[job % 2])
    red, green, blue = (round(255 * part) for part in tone)
    return red, green, blue


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
