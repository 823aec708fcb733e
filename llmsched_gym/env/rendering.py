"""The cluster as text, and the render modes of all environments."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.picture import draw_cluster

RENDER_MODES = ("ansi", "rgb_array")
RENDER_FPS = 20  # decisions a second, where they become a video
WIDEST = 20  # jobs listed


def check_render_mode(render_mode: Any) -> None:
    """ValueError for a render mode that there is not."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        valid = ", ".join(RENDER_MODES)
        raise ValueError(f"render_mode: unknown {render_mode!r}, choose from {valid} or None")


def render(state: ClusterState, applications: tuple[str, ...], render_mode: str) -> Any:
    """A text in mode "ansi", a picture, uint8 [720, 1280, 3], in mode "rgb_array"."""
    draw = render_ansi if render_mode == "ansi" else draw_cluster
    return draw(state, applications)


def render_ansi(state: ClusterState, applications: tuple[str, ...]) -> str:
    """One line for the cluster, one a job in the system (the oldest 20)."""
    clock = state.clock[0]
    slots = state.sequences.size
    regular = len(state.executors)
    lines = [
        f"t = {clock['now'] / TICKS_PER_SECOND:.3f} s   "
        f"jobs {clock['active']} in system, {clock['finished']}/{clock['num_jobs']} done   "
        f"LLM slots {clock['llm_running']}/{slots} busy   "
        f"regular {regular - clock['regular_free']}/{regular} busy"
    ]
    active = state.active[: clock["active"]]
    lines += [_job_line(state, int(job), applications) for job in active[:WIDEST]]
    if len(active) > WIDEST:
        lines.append(f"  ... and {len(active) - WIDEST} more jobs")
    return "\n".join(lines)


def _job_line(state: ClusterState, job: int, applications: tuple[str, ...]) -> str:
    row = state.jobs[job]
    stages = state.stages[row["first_stage"] : row["first_stage"] + row["num_stages"]]
    stages = stages[stages["visible"] == 1]
    done = stages["completed_tasks"] == stages["num_tasks"]
    ready = ~done & (stages["unfinished_parents"] == 0)
    waiting = int(np.sum((stages["num_tasks"] - stages["started_tasks"])[ready]))
    age = (state.clock["now"][0] - row["arrival"]) / TICKS_PER_SECOND
    return (
        f"  job {job:<5} {applications[row['application']]:<26} age {age:8.1f} s   "
        f"stages {int(done.sum())}/{len(stages)} visible done   "
        f"tasks {row['running_tasks']} running, {waiting} waiting"
    )
