"""What can happen to a cluster that is real, and what each event changes in its state.

The tables are the simulator's. The fields of an engine that say what will happen next are at rest
(``event`` is NEVER, ``decoding`` and ``prefilling`` 0): ``running``, ``reserved`` and the tokens
held, ``kv``, are all that is known, and enough for placement, room and slowdown. The same function
changes the state while an episode is played and while its log is replayed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmsched_gym.cluster.engines import engine_for, free_kv, kv_need, slowdown
from llmsched_gym.cluster.lifecycle import arrive, complete_task, set_clock, start_task
from llmsched_gym.cluster.simulator import DECIDE, FINISHED, TRUNCATED, can_run, can_wait
from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.compiled import inlined, kernel
from llmsched_gym.workload.job import Kind

KINDS = ("start", "complete", "arrive", "down", "up", "ask", "finish", "truncate")
START, COMPLETE, ARRIVE, DOWN, UP, ASK, FINISH, TRUNCATE = range(len(KINDS))
STATUS = {ASK: DECIDE, FINISH: FINISHED, TRUNCATE: TRUNCATED}  # what ends a step
_REGULAR = int(Kind.REGULAR)


class Event(NamedTuple):
    """Something that happened, or the end of a step.

    Attributes
    ----------
    tick : of the episode; the clock of the state stands there afterwards.
    kind : ``ARRIVE`` (of job ``what``), ``START`` or ``COMPLETE`` (of task ``what``), ``DOWN`` or
        ``UP`` (of engine ``what``: nothing new is placed on it, or again), ``ASK``, ``FINISH`` or
        ``TRUNCATE``.
    what : see there; -1 for the last three.
    executor : of a task that starts, the number of its engine or regular executor; else -1.
    held : with ``ASK``, ``FINISH`` and ``TRUNCATE``, the tokens that each engine holds.
    """

    tick: int
    kind: int
    what: int = -1
    executor: int = -1
    held: tuple[int, ...] = ()


def happen(state: ClusterState, event: Event) -> int:
    """Change a state as an event says; the executor of a task that starts, else -1."""
    if event.held:
        state.engines["kv"] = np.array(event.held, np.int64)
    return int(_happen(state, event.kind, event.tick, event.what))


def next_task(state: ClusterState, stage: int) -> int:
    """The task of a ready stage that starts next."""
    row = state.stages[stage]
    return int(row["first_task"] + row["started_tasks"])


@kernel
def decision_needed(state: ClusterState) -> bool:
    """Whether some task could start now."""
    for slot in range(state.clock[0]["ready"]):  # noqa: SIM110 (numba knows no any())
        if can_run(state, state.ready[slot]):
            return True
    return False


@kernel
def _happen(state: ClusterState, kind: int, tick: int, what: int) -> int:
    clock = state.clock[0]
    set_clock(state, tick)
    blocked = state.latency[0]["kv_capacity"] + 1
    if kind == ARRIVE:
        arrive(state)
    elif kind == START:
        return _start(state, what)
    elif kind == COMPLETE:
        _leave(state, what)
        complete_task(state, what)
    elif kind == DOWN:
        state.engines[what]["reserved"] += blocked  # no task fits
    elif kind == UP:
        state.engines[what]["reserved"] -= blocked
    else:
        clock["slowdown"] = slowdown(state)
        clock["room"] = free_kv(state)
        clock["can_wait"] = can_wait(state)
    return -1


@inlined
def _start(state: ClusterState, task: int) -> int:
    clock = state.clock[0]
    s = state.tasks[task]["stage"]
    need = kv_need(state, s)
    start_task(state, s)
    x = 0
    if state.stages[s]["kind"] == _REGULAR:
        while state.executors[x]["task"] >= 0:
            x += 1
        state.executors[x]["task"] = task
        clock["regular_free"] -= 1
    else:
        x = engine_for(state, need)
        state.sequences[x, state.engines[x]["running"]]["task"] = task
        state.engines[x]["running"] += 1
        state.engines[x]["reserved"] += need
        clock["llm_running"] += 1
    state.tasks[task]["executor"] = x
    return int(x)


@inlined
def _leave(state: ClusterState, task: int) -> None:
    """A task that is about to complete frees its slot or its regular executor."""
    clock = state.clock[0]
    stage = state.stages[state.tasks[task]["stage"]]
    x = state.tasks[task]["executor"]
    if stage["kind"] == _REGULAR:
        state.executors[x]["task"] = -1
        clock["regular_free"] += 1
        return
    engine, sequences = state.engines[x], state.sequences[x]
    engine["running"] -= 1
    engine["reserved"] -= state.tasks[task]["prompt_tokens"] + stage["output_limit"]
    clock["llm_running"] -= 1
    place = 0
    while sequences[place]["task"] != task:
        place += 1
    for k in range(place, engine["running"]):
        sequences[k]["task"] = sequences[k + 1]["task"]
