"""The discrete-event simulator: advance a cluster to the next decision, dispatch one task.

Exact and without a loop over tokens; `tests/support/naive.py` is the same thing with that loop.

**Events.** At one instant these are applied in this order: the engines by index (an engine's
completions in the order of dispatch), completions on regular executors by index, arrivals by job
number. The completion of a stage reveals first, then makes its children ready. Only then is
anybody asked. A regular task of zero seconds is due at the instant of its dispatch: it completes
before the next decision. Iterations of engines take at least one tick, so nothing else can become
due at an instant that has been applied.

Waiting lets the next *external* instant happen, one with a completed task or an arrival; a boundary
at which a task joins, or yields only its first token, is nobody's event. Decisions are asked at
external instants only, since nothing else frees a slot or makes a stage ready.

**Placement.** An LLM task goes to the engine with the fewest sequences (joining ones included) that
has a free slot and enough KV tokens for its prompt and output limit, lowest index first; a regular
task to the idle executor with the lowest index. The tasks of a stage start in index order.

**Truncation.** Events up to and including ``clock.limit`` happen; the clock never passes it.

Kernels allocate nothing, so reference counts are compiled out (`_nrt`), and what is not called from
Python is inlined: together the two make a decision more than ten times faster.
"""

from __future__ import annotations

from llmsched_gym.cluster.engines import (
    engine_for,
    free_kv,
    join_engine,
    kv_need,
    reach_boundary,
    slowdown,
)
from llmsched_gym.cluster.lifecycle import arrive, complete_task, set_clock, start_task
from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import NEVER
from llmsched_gym.compiled import inlined, kernel
from llmsched_gym.workload.job import Kind

DECIDE, FINISHED, TRUNCATED = 0, 1, 2  # what start() and step() return
_REGULAR = int(Kind.REGULAR)


# --- What an agent may do -------------------------------------------------------------------------


@kernel
def start(state: ClusterState) -> int:
    """Advance a new state to the first decision: DECIDE, FINISHED or TRUNCATED."""
    status = _advance(state, False)
    _report(state)
    return status


@kernel
def step(state: ClusterState, stage: int) -> int:
    """Dispatch the next task of a stage (``can_run``), or wait if it is negative (``can_wait``).

    Advances to the next decision and returns DECIDE; FINISHED when all jobs are complete; or
    TRUNCATED at ``clock.limit``.
    """
    if stage >= 0:
        _dispatch(state, stage)
    status = _advance(state, stage < 0)
    _report(state)
    return status


@inlined
def _report(state: ClusterState) -> None:
    """Leave in the clock what every observation needs: calls from Python are not free."""
    clock = state.clock[0]
    clock["slowdown"] = slowdown(state)
    clock["room"] = free_kv(state)
    clock["can_wait"] = can_wait(state)


@kernel
def can_run(state: ClusterState, stage: int) -> bool:
    """Whether the next task of a stage may start now."""
    if stage < 0 or stage >= len(state.stages) or state.stages[stage]["ready_slot"] < 0:
        return False
    if state.stages[stage]["kind"] == _REGULAR:
        return bool(state.clock[0]["regular_free"] > 0)
    return engine_for(state, kv_need(state, stage)) >= 0


@kernel
def can_wait(state: ClusterState) -> bool:
    """Whether something runs or will arrive, so that waiting ends."""
    clock = state.clock[0]
    return bool(
        clock["arrived"] < clock["num_jobs"]
        or clock["llm_running"] > 0
        or clock["regular_free"] < len(state.executors)
    )


# --- Time -----------------------------------------------------------------------------------------


@inlined
def _advance(state: ClusterState, wait: bool) -> int:
    """Let external instants happen, at least one if somebody waits, until one must decide."""
    clock = state.clock[0]
    while clock["finished"] < clock["num_jobs"]:
        due = clock["next_regular"] == clock["now"]  # a task of zero seconds was dispatched
        if not (wait or due) and _decision_needed(state):
            return DECIDE
        wait = False
        if not _next_instant(state):
            return TRUNCATED
    return FINISHED


@inlined
def _next_instant(state: ClusterState) -> bool:
    """Apply the next external instant, and the boundaries before it; False at the time limit."""
    clock = state.clock[0]
    external = False
    while not external:
        now = _next_event(state)
        if now > clock["limit"]:
            set_clock(state, clock["limit"])
            return False
        set_clock(state, now)
        external = _apply_events(state)
    return True


@inlined
def _next_event(state: ClusterState) -> int:
    clock = state.clock[0]
    event = clock["next_regular"]
    if clock["arrived"] < clock["num_jobs"]:
        event = min(event, state.jobs[clock["arrived"]]["arrival"])
    for e in range(len(state.engines)):
        event = min(event, state.engines[e]["event"])
    return event


@inlined
def _apply_events(state: ClusterState) -> bool:
    """Apply all events of this instant; whether a task completed or a job arrived."""
    clock = state.clock[0]
    external = False
    for e in range(len(state.engines)):
        if state.engines[e]["event"] == clock["now"]:
            external |= reach_boundary(state, e)
    if clock["next_regular"] == clock["now"]:
        _complete_regular(state)
        external = True
    while clock["arrived"] < clock["num_jobs"]:
        if state.jobs[clock["arrived"]]["arrival"] > clock["now"]:
            break
        arrive(state)
        external = True
    return external


@inlined
def _decision_needed(state: ClusterState) -> bool:
    clock = state.clock[0]
    if clock["ready_regular"] > 0 and clock["regular_free"] > 0:
        return True
    if clock["ready"] == clock["ready_regular"]:
        return False
    room = free_kv(state)
    if room < 0 or room >= clock["largest_need"]:
        return bool(room >= 0)
    for slot in range(clock["ready"]):
        stage = state.ready[slot]
        if state.stages[stage]["kind"] != _REGULAR and kv_need(state, stage) <= room:
            return True
    return False


# --- Dispatch -------------------------------------------------------------------------------------


@inlined
def _dispatch(state: ClusterState, s: int) -> None:
    need = kv_need(state, s)
    task = start_task(state, s)
    if state.stages[s]["kind"] == _REGULAR:
        _start_regular(state, task)
    else:
        join_engine(state, engine_for(state, need), task, need)


# --- Regular executors ----------------------------------------------------------------------------


@inlined
def _start_regular(state: ClusterState, task: int) -> None:
    clock = state.clock[0]
    x = 0
    while state.executors[x]["task"] >= 0:
        x += 1
    end = clock["now"] + state.tasks[task]["demand"]
    state.tasks[task]["executor"] = x
    state.executors[x]["task"] = task
    state.executors[x]["end"] = end
    clock["regular_free"] -= 1
    clock["next_regular"] = min(clock["next_regular"], end)


@inlined
def _complete_regular(state: ClusterState) -> None:
    """Complete the regular tasks that end now, and find out when the next one does."""
    clock = state.clock[0]
    clock["next_regular"] = NEVER
    for x in range(len(state.executors)):
        executor = state.executors[x]
        if executor["end"] == clock["now"]:
            complete_task(state, executor["task"])
            executor["task"] = -1
            executor["end"] = NEVER
            clock["regular_free"] += 1
        else:
            clock["next_regular"] = min(clock["next_regular"], executor["end"])
