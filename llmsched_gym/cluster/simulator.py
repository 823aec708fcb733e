"""The discrete-event simulator: advance a cluster to the next decision, dispatch one task.

Exact and without a loop over tokens; `tests/cluster/naive.py` is the same thing with that loop.

**LLM engines** work in iterations. A decode iteration takes ``a + c b + d kv``, where ``kv`` counts
the tokens that its b sequences hold when it starts: their prompts and what they have generated. A
prefill of n prompt tokens takes ``max(p0, e + f n + g n^2)`` and yields each of its sequences its
first token, so a task of o output tokens needs one prefill and o - 1 decode iterations; with o = 1
it completes when its prefill ends. The sequences of one engine all advance together.

A task dispatched to an engine *joins* it at the end of the iteration (decode or prefill) in flight,
and at once if the engine is idle or at a boundary between iterations at that very instant, after
all events of the instant have been applied and whatever else is dispatched in it. All that join
at one boundary are prefilled together, before any sequence decodes further.

**Events.** At one instant these are applied in this order: the engines by index (an engine's
completions in the order of dispatch), completions on regular executors by index, arrivals by job
number. The completion of a stage reveals first, then makes its children ready. Only then is
anybody asked. A regular task of zero seconds is due at the instant of its dispatch: it completes
before the next decision. Iterations take at least one tick, so nothing else can become due at an
instant that has been applied.

Waiting lets the next *external* instant happen, one with a completed task or an arrival; a boundary
at which a task joins, or yields only its first token, is nobody's event. Decisions are asked at
external instants only, since nothing else frees a slot or makes a stage ready.

**Placement.** An LLM task goes to the engine with the fewest sequences (joining ones included) that
has a free slot and enough KV tokens for its prompt and output limit, lowest index first; a regular
task to the idle executor with the lowest index. The tasks of a stage start in index order.

**Truncation.** Events up to and including ``clock.limit`` happen; the clock never passes it.

All kernels that call each other live in this module: numba's cache does not notice edits elsewhere.
They allocate nothing, so reference counts are compiled out (`_nrt`), and what is not called from
Python is inlined: together the two make a decision more than ten times faster.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from llmsched_gym.cluster.state import (
    EVIDENCE,
    NEVER,
    NO_CHANGE,
    PROGRESS,
    STARTED,
    TICKS_PER_SECOND,
    ClusterState,
)
from llmsched_gym.compiled import compiled
from llmsched_gym.workload.job import Kind

DECIDE, FINISHED, TRUNCATED = 0, 1, 2  # what start() and step() return

kernel = partial(compiled, _nrt=False)
inlined = partial(compiled, _nrt=False, forceinline=True)

_REGULAR = int(Kind.REGULAR)

# --- What an agent may do ---------------------------------------------------------------------


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
    clock["room"] = _room(state)
    clock["can_wait"] = can_wait(state)


@kernel
def can_run(state: ClusterState, stage: int) -> bool:
    """Whether the next task of a stage may start now."""
    if stage < 0 or stage >= len(state.stages) or state.stages[stage]["ready_slot"] < 0:
        return False
    if state.stages[stage]["kind"] == _REGULAR:
        return bool(state.clock[0]["regular_free"] > 0)
    return _engine_for(state, _need(state, stage)) >= 0


@kernel
def can_wait(state: ClusterState) -> bool:
    """Whether something runs or will arrive, so that waiting ends."""
    clock = state.clock[0]
    return bool(
        clock["arrived"] < clock["num_jobs"]
        or clock["llm_running"] > 0
        or clock["regular_free"] < len(state.executors)
    )


@kernel
def slowdown(state: ClusterState) -> float:
    """Mean over the busy engines of l(b, kv) / l(1, kv / b), now; 1 if all are idle.

    b counts all sequences of the engine, kv the tokens they hold: prompts and what was generated.
    """
    latency = state.latency[0]
    total, busy = 0.0, 0
    for e in range(len(state.engines)):
        engine = state.engines[e]
        b = engine["running"]
        if b == 0:
            continue
        kv = engine["kv"] + engine["prefill_tokens"] + engine["joining_tokens"]
        if engine["prefilling"] == 0:
            elapsed = state.clock[0]["now"] - engine["since"]
            kv += engine["decoding"] * _whole_iterations(latency, engine, elapsed)
        alone = latency["a"] + latency["c"] + latency["d"] * (kv / b)
        total += (latency["a"] + latency["c"] * b + latency["d"] * kv) / alone
        busy += 1
    return total / busy if busy > 0 else 1.0


# --- Time -------------------------------------------------------------------------------------


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
            _set_clock(state, clock["limit"])
            return False
        _set_clock(state, now)
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
def _set_clock(state: ClusterState, now: int) -> None:
    clock = state.clock[0]
    clock["job_seconds"] += clock["active"] * ((now - clock["now"]) / TICKS_PER_SECOND)
    clock["now"] = now


@inlined
def _apply_events(state: ClusterState) -> bool:
    """Apply all events of this instant; whether a task completed or a job arrived."""
    clock = state.clock[0]
    external = False
    for e in range(len(state.engines)):
        if state.engines[e]["event"] == clock["now"]:
            external |= _reach_boundary(state, e)
    if clock["next_regular"] == clock["now"]:
        _complete_regular(state)
        external = True
    while clock["arrived"] < clock["num_jobs"]:
        if state.jobs[clock["arrived"]]["arrival"] > clock["now"]:
            break
        _arrive(state)
        external = True
    return external


@inlined
def _decision_needed(state: ClusterState) -> bool:
    clock = state.clock[0]
    if clock["ready_regular"] > 0 and clock["regular_free"] > 0:
        return True
    if clock["ready"] == clock["ready_regular"]:
        return False
    room = _room(state)
    if room < 0 or room >= clock["largest_need"]:
        return bool(room >= 0)
    for slot in range(clock["ready"]):
        stage = state.ready[slot]
        if state.stages[stage]["kind"] != _REGULAR and _need(state, stage) <= room:
            return True
    return False


@inlined
def _room(state: ClusterState) -> int:
    """KV tokens free on the emptiest engine that has a free slot, -1 if there is none."""
    room = -1
    for e in range(len(state.engines)):
        if state.engines[e]["running"] < state.sequences.shape[1]:
            room = max(room, state.latency[0]["kv_capacity"] - state.engines[e]["reserved"])
    return room


# --- Jobs and stages --------------------------------------------------------------------------


@inlined
def _arrive(state: ClusterState) -> None:
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
def _complete_task(state: ClusterState, task: int) -> None:
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


# --- Dispatch ---------------------------------------------------------------------------------


@inlined
def _dispatch(state: ClusterState, s: int) -> None:
    clock = state.clock[0]
    stage = state.stages[s]
    need = _need(state, s)
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
    if stage["kind"] == _REGULAR:
        _start_regular(state, task)
    else:
        _join_engine(state, _engine_for(state, need), task, need)


@inlined
def _need(state: ClusterState, s: int) -> int:
    """KV tokens that the next task of an LLM stage reserves."""
    stage = state.stages[s]
    task = state.tasks[stage["first_task"] + stage["started_tasks"]]
    return task["prompt_tokens"] + stage["output_limit"]


@inlined
def _engine_for(state: ClusterState, need: int) -> int:
    """The engine with the fewest sequences among those that can take a task, or -1."""
    room = state.latency[0]["kv_capacity"] - need
    best, fewest = -1, state.sequences.shape[1]
    for e in range(len(state.engines)):
        if state.engines[e]["running"] < fewest and state.engines[e]["reserved"] <= room:
            best, fewest = e, state.engines[e]["running"]
    return best


# --- Regular executors ------------------------------------------------------------------------


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
            _complete_task(state, executor["task"])
            executor["task"] = -1
            executor["end"] = NEVER
            clock["regular_free"] += 1
        else:
            clock["next_regular"] = min(clock["next_regular"], executor["end"])


# --- LLM engines ------------------------------------------------------------------------------


@inlined
def _join_engine(state: ClusterState, e: int, task: int, need: int) -> None:
    clock = state.clock[0]
    engine = state.engines[e]
    state.sequences[e, engine["running"]]["task"] = task
    state.tasks[task]["executor"] = e
    clock["llm_running"] += 1
    engine["running"] += 1
    engine["reserved"] += need
    engine["joining_tokens"] += state.tasks[task]["prompt_tokens"]
    if engine["since"] == clock["now"] or engine["event"] == NEVER:
        _resume(state, e)  # it has not begun anything before this instant
    elif engine["prefilling"] == 0:
        _end_run_early(state, e)


@inlined
def _end_run_early(state: ClusterState, e: int) -> None:
    """Let a run of decode iterations end with the one in flight, for somebody joins."""
    latency, engine = state.latency[0], state.engines[e]
    elapsed = state.clock[0]["now"] - engine["since"]
    whole = _whole_iterations(latency, engine, elapsed)
    if _run_time(latency, engine, whole) < elapsed:
        whole += 1
    engine["iterations"] = whole
    engine["event"] = engine["since"] + _run_time(latency, engine, whole)
    if engine["event"] == state.clock[0]["now"]:
        _end_run(engine)
        _resume(state, e)


@inlined
def _reach_boundary(state: ClusterState, e: int) -> bool:
    """End the prefill or the run of decode iterations due now; whether a task completed."""
    engine = state.engines[e]
    if engine["prefilling"] > 0:
        _begin_decoding(state, e)
    else:
        _end_run(engine)
    completed = _complete_sequences(state, e)
    _resume(state, e)
    return completed > 0


@inlined
def _end_run(engine: Any) -> None:
    """Account a run of decode iterations: each gave each of its sequences a token."""
    engine["kv"] += engine["decoding"] * engine["iterations"]
    engine["iteration"] += engine["iterations"]


@inlined
def _begin_decoding(state: ClusterState, e: int) -> None:
    """Sort the prefilled sequences in among the decoding ones; each has its first token."""
    engine, sequences = state.engines[e], state.sequences[e]
    for k in range(engine["decoding"], engine["decoding"] + engine["prefilling"]):
        task = sequences[k]["task"]
        last = engine["iteration"] + state.tasks[task]["output_tokens"] - 1
        place = k
        while place > 0 and sequences[place - 1]["last_iteration"] <= last:
            sequences[place]["task"] = sequences[place - 1]["task"]
            sequences[place]["last_iteration"] = sequences[place - 1]["last_iteration"]
            place -= 1
        sequences[place]["task"] = task
        sequences[place]["last_iteration"] = last
    engine["kv"] += engine["prefill_tokens"] + engine["prefilling"]
    engine["decoding"] += engine["prefilling"]
    engine["prefilling"] = 0
    engine["prefill_tokens"] = 0


@inlined
def _complete_sequences(state: ClusterState, e: int) -> int:
    """Take off the sequences that have all their tokens; how many."""
    engine, sequences = state.engines[e], state.sequences[e]
    joining = engine["running"] - engine["decoding"]
    completed = 0
    while engine["decoding"] > 0:
        last = engine["decoding"] - 1
        if sequences[last]["last_iteration"] > engine["iteration"]:
            break
        task = sequences[last]["task"]
        prompt = state.tasks[task]["prompt_tokens"]
        limit = state.stages[state.tasks[task]["stage"]]["output_limit"]
        engine["kv"] -= prompt + state.tasks[task]["output_tokens"]
        engine["reserved"] -= prompt + limit
        engine["decoding"] = last
        completed += 1
        _complete_task(state, task)
    if completed > 0:
        for k in range(engine["decoding"], engine["decoding"] + joining):
            sequences[k]["task"] = sequences[k + completed]["task"]
        engine["running"] -= completed
        state.clock[0]["llm_running"] -= completed
    return completed


@inlined
def _resume(state: ClusterState, e: int) -> None:
    """Begin what comes next on an engine at a boundary: prefill who joins, else decode, or rest.

    Called again at the same instant for each task that joins in it.
    """
    latency, engine, now = state.latency[0], state.engines[e], state.clock[0]["now"]
    engine["since"] = now
    engine["prefilling"] = engine["running"] - engine["decoding"]
    engine["prefill_tokens"] += engine["joining_tokens"]
    engine["joining_tokens"] = 0
    if engine["prefilling"] > 0:
        engine["event"] = now + _prefill_time(latency, engine["prefill_tokens"])
    elif engine["decoding"] > 0:
        next_to_complete = state.sequences[e, engine["decoding"] - 1]
        engine["iterations"] = next_to_complete["last_iteration"] - engine["iteration"]
        engine["event"] = now + _run_time(latency, engine, engine["iterations"])
    else:
        engine["event"] = NEVER


@inlined
def _prefill_time(latency: Any, tokens: int) -> int:
    ticks = latency["e"] + latency["f"] * tokens + latency["g"] * tokens * tokens
    return math.floor(max(latency["p0"], ticks) + 0.5)


@inlined
def _run_time(latency: Any, engine: Any, m: int) -> int:
    """Ticks of the first m decode iterations of this run: each one holds b tokens more."""
    b = engine["decoding"]
    first = latency["a"] + latency["c"] * b + latency["d"] * engine["kv"]
    return m * first + latency["d"] * b * (m * (m - 1) // 2)


@inlined
def _whole_iterations(latency: Any, engine: Any, elapsed: int) -> int:
    """How many decode iterations of this run end within ``elapsed`` ticks."""
    if elapsed <= 0 or engine["decoding"] == 0:
        return 0
    growth = float(latency["d"] * engine["decoding"])
    linear = float(_run_time(latency, engine, 1)) - growth / 2
    m = int(2.0 * elapsed / (linear + math.sqrt(linear * linear + 2.0 * growth * elapsed)))
    while _run_time(latency, engine, m) > elapsed:  # the root may be off by one
        m -= 1
    while _run_time(latency, engine, m + 1) <= elapsed:
        m += 1
    return m
