"""The cluster as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND

WIDEST = 20  # jobs listed


def cluster_text(state: ClusterState, applications: Sequence[str]) -> str:
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


def _job_line(state: ClusterState, job: int, applications: Sequence[str]) -> str:
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
