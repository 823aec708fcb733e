"""The life of jobs, stages and tasks: true whoever runs the tasks.

A job arrives, its stages become ready, their tasks start and complete; the completion of a stage
first reveals, then makes its children ready. What runs a task, and how long, is said elsewhere.
"""

from __future__ import annotations

from typing import Any

from llmsched_gym.cluster.state import EVIDENCE, NO_CHANGE, PROGRESS, STARTED, ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.compiled import inlined
from llmsched_gym.workload.job import Kind

_REGULAR = int(Kind.REGULAR)


# --- Time -----------------------------------------------------------------------------------------


@inlined
def set_clock(state: ClusterState, now: int) -> None:
    """Let time pass: the jobs in the system grow older."""
    clock = state.clock[0]
    clock["job_seconds"] += clock["active"] * ((now - clock["now"]) / TICKS_PER_SECOND)
    clock["now"] = now


# --- Jobs and stages ------------------------------------------------------------------------------


@inlined
def arrive(state: ClusterState) -> None:
    """The next job arrives, with what is visible of it."""
    clock = state.clock[0]
    j = clock["arrived"]
    job = state.jobs[j]
    clock["arrived"] += 1
    state.active[clock["active"]] = j
    clock["active"] += 1
    _mark_changed(state, j, EVIDENCE)
    for s in range(job["first_stage"], job["first_stage"] + job["num_stages"]):
        stage = state.stages[s]
        if stage["revealed_by"] < 0:
            stage["visible"] = 1
            if stage["unfinished_parents"] == 0:
                _add_ready(state, s)


@inlined
def start_task(state: ClusterState, s: int) -> int:
    """Start the next task of a ready stage; which."""
    clock = state.clock[0]
    stage = state.stages[s]
    task = stage["first_task"] + stage["started_tasks"]
    stage["started_tasks"] += 1
    if stage["started_tasks"] == stage["num_tasks"]:
        _remove_ready(state, s)
    job = state.jobs[stage["job"]]
    _attain(job, clock["now"])
    _mark_changed(state, stage["job"], STARTED)
    job["running_tasks"] += 1
    clock["dispatched"] += 1
    state.tasks[task]["start"] = clock["now"]
    return int(task)


@inlined
def complete_task(state: ClusterState, task: int) -> None:
    """A task completes now, and maybe its stage, and its job."""
    now = state.clock[0]["now"]
    state.tasks[task]["end"] = now
    s = state.tasks[task]["stage"]
    stage = state.stages[s]
    job = state.jobs[stage["job"]]
    _attain(job, now)
    job["running_tasks"] -= 1
    job["completed_tasks"] += 1
    stage["completed_tasks"] += 1
    if stage["completed_tasks"] == stage["num_tasks"]:
        _complete_stage(state, s)
    else:
        _mark_changed(state, stage["job"], PROGRESS)


@inlined
def _complete_stage(state: ClusterState, s: int) -> None:
    j = state.stages[s]["job"]
    _mark_changed(state, j, EVIDENCE)
    for k in range(state.reveals_of[s], state.reveals_of[s + 1]):
        state.stages[state.reveals[k]]["visible"] = 1  # not ready yet: it waits for s, at least
    for k in range(state.children_of[s], state.children_of[s + 1]):
        child = state.stages[state.children[k]]
        child["unfinished_parents"] -= 1
        if child["unfinished_parents"] == 0:
            _add_ready(state, state.children[k])
    state.jobs[j]["unfinished_stages"] -= 1
    if state.jobs[j]["unfinished_stages"] == 0:
        _complete_job(state, j)


@inlined
def _complete_job(state: ClusterState, j: int) -> None:
    clock = state.clock[0]
    state.jobs[j]["completion"] = clock["now"]
    clock["finished"] += 1
    clock["active"] -= 1
    place = 0
    while state.active[place] != j:
        place += 1
    for k in range(place, clock["active"]):
        state.active[k] = state.active[k + 1]


@inlined
def _add_ready(state: ClusterState, s: int) -> None:
    clock = state.clock[0]
    state.stages[s]["ready_slot"] = clock["ready"]
    state.ready[clock["ready"]] = s
    clock["ready"] += 1
    clock["ready_regular"] += state.stages[s]["kind"] == _REGULAR


@inlined
def _remove_ready(state: ClusterState, s: int) -> None:
    clock = state.clock[0]
    clock["ready"] -= 1
    clock["ready_regular"] -= state.stages[s]["kind"] == _REGULAR
    slot, last = state.stages[s]["ready_slot"], state.ready[clock["ready"]]
    state.ready[slot] = last
    state.stages[last]["ready_slot"] = slot
    state.stages[s]["ready_slot"] = -1


@inlined
def _mark_changed(state: ClusterState, j: int, change: int) -> None:
    clock = state.clock[0]
    if state.jobs[j]["changed"] == NO_CHANGE:
        state.changed[clock["changed"]] = j
        clock["changed"] += 1
    state.jobs[j]["changed"] = max(state.jobs[j]["changed"], change)


@inlined
def _attain(job: Any, now: int) -> None:
    """Account the slot time of a job's running tasks, before their number changes."""
    job["attained"] += job["running_tasks"] * (now - job["attained_until"])
    job["attained_until"] = now
