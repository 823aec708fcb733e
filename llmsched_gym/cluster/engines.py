"""LLM engines, exact at iteration level without a loop over tokens.

An engine works in iterations. A decode iteration takes ``a + c b + d kv``, where ``kv`` counts
the tokens that its b sequences hold when it starts: their prompts and what they have generated. A
prefill of n prompt tokens takes ``max(p0, e + f n + g n^2)`` and yields each of its sequences its
first token, so a task of o output tokens needs one prefill and o - 1 decode iterations; with o = 1
it completes when its prefill ends. The sequences of one engine all advance together.

A task dispatched to an engine *joins* it at the end of the iteration (decode or prefill) in flight,
and at once if the engine is idle or at a boundary between iterations at that very instant, after
all events of the instant have been applied and whatever else is dispatched in it. All that join
at one boundary are prefilled together, before any sequence decodes further.

Two traits of a profile change that; both are those of the engines that people run today.

**Mixed prefill.** An iteration gives each of the b decoding sequences one token and, while prompts
wait, takes beside them up to ``token_budget - b`` prompt tokens, in order of dispatch; a prompt
that is longer than what is left of the budget goes on in the next iteration. With n prompt tokens
it takes ``max(p0, e + f n + g sum_j n_j (2 s_j + n_j)) + c b + d kv``, where n_j tokens of prompt j
come after s_j that were prefilled before: attention is paid by each prompt for itself, so that
chunks cost together what the whole prompt does. A sequence whose prompt ends in an iteration has
its first token of it. With nothing to prefill it is a decode iteration as above.

**Late joins.** An engine begins its next iteration before anybody could react to the end of the
last one. So a task that is dispatched while sequences are on its engine waits for the end of the
iteration that has begun, be it at this very instant; only an idle engine begins with it at once.
"""

from __future__ import annotations

import math
from typing import Any

from llmsched_gym.cluster.lifecycle import complete_task
from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import NEVER
from llmsched_gym.compiled import inlined, kernel

# --- Where a task goes ----------------------------------------------------------------------------


@inlined
def kv_need(state: ClusterState, s: int) -> int:
    """KV tokens that the next task of an LLM stage reserves."""
    stage = state.stages[s]
    task = state.tasks[stage["first_task"] + stage["started_tasks"]]
    return task["prompt_tokens"] + stage["output_limit"]


@inlined
def free_kv(state: ClusterState) -> int:
    """KV tokens free on the emptiest engine that has a free slot, -1 if there is none."""
    room = -1
    for e in range(len(state.engines)):
        if state.engines[e]["running"] < state.sequences.shape[1]:
            room = max(room, state.latency[0]["kv_capacity"] - state.engines[e]["reserved"])
    return room


@inlined
def engine_for(state: ClusterState, need: int) -> int:
    """The engine with the fewest sequences among those that can take a task, or -1."""
    room = state.latency[0]["kv_capacity"] - need
    best, fewest = -1, state.sequences.shape[1]
    for e in range(len(state.engines)):
        if state.engines[e]["running"] < fewest and state.engines[e]["reserved"] <= room:
            best, fewest = e, state.engines[e]["running"]
    return best


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


# --- Joining and leaving --------------------------------------------------------------------------


@inlined
def join_engine(state: ClusterState, e: int, task: int, need: int) -> None:
    """A task that has started joins an engine that has room for it."""
    clock = state.clock[0]
    engine = state.engines[e]
    state.sequences[e, engine["running"]]["task"] = task
    state.tasks[task]["executor"] = e
    clock["llm_running"] += 1
    engine["running"] += 1
    engine["reserved"] += need
    engine["joining_tokens"] += state.tasks[task]["prompt_tokens"]
    late = state.latency[0]["late"]
    if engine["event"] == NEVER or (engine["since"] == clock["now"] and late == 0):
        _resume(state, e)  # it has not begun anything before this instant
    elif engine["prefilling"] == 0:
        _end_run_early(state, e)


@inlined
def _end_run_early(state: ClusterState, e: int) -> None:
    """Let a run of decode iterations end with the one in flight, for somebody joins.

    Late joiners find at a boundary that the next one is in flight.
    """
    latency, engine = state.latency[0], state.engines[e]
    elapsed = state.clock[0]["now"] - engine["since"]
    whole = _whole_iterations(latency, engine, elapsed)
    if _run_time(latency, engine, whole) < elapsed + latency["late"]:  # in whole ticks: <=
        whole += 1
    engine["iterations"] = whole
    engine["event"] = engine["since"] + _run_time(latency, engine, whole)
    if engine["event"] == state.clock[0]["now"]:
        _end_run(engine)
        _resume(state, e)


@inlined
def reach_boundary(state: ClusterState, e: int) -> bool:
    """End the prefill or the run of decode iterations due now; whether a task completed."""
    engine = state.engines[e]
    if engine["prefilling"] == 0:
        _end_run(engine)
    else:
        if state.latency[0]["token_budget"] > 0:
            _end_mixed(state, e)
        _begin_decoding(state, e)
    completed = _complete_sequences(state, e)
    _resume(state, e)
    return completed > 0


@inlined
def _end_run(engine: Any) -> None:
    """Account a run of decode iterations: each gave each of its sequences a token."""
    engine["kv"] += engine["decoding"] * engine["iterations"]
    engine["iteration"] += engine["iterations"]


@inlined
def _end_mixed(state: ClusterState, e: int) -> None:
    """Account a mixed iteration; of the prefilling sequences are left those with a whole prompt."""
    engine = state.engines[e]
    left = state.latency[0]["token_budget"] - engine["decoding"]
    whole, done = 0, engine["prefilled"]
    while whole < engine["prefilling"]:
        prompt = _prompt(state, e, engine["decoding"] + whole)
        if prompt - done > left:
            done += left
            break
        left -= prompt - done
        done = 0
        whole += 1
    engine["kv"] += engine["decoding"]
    engine["iteration"] += 1
    engine["prefilled"] = done
    engine["prefilling"] = whole


@inlined
def _begin_decoding(state: ClusterState, e: int) -> None:
    """Sort the prefilled sequences in among the decoding ones; each has its first token."""
    engine, sequences = state.engines[e], state.sequences[e]
    for k in range(engine["decoding"], engine["decoding"] + engine["prefilling"]):
        task = sequences[k]["task"]
        prompt = state.tasks[task]["prompt_tokens"]
        engine["kv"] += prompt + 1
        engine["prefill_tokens"] -= prompt
        last = engine["iteration"] + state.tasks[task]["output_tokens"] - 1
        place = k
        while place > 0 and sequences[place - 1]["last_iteration"] <= last:
            sequences[place]["task"] = sequences[place - 1]["task"]
            sequences[place]["last_iteration"] = sequences[place - 1]["last_iteration"]
            place -= 1
        sequences[place]["task"] = task
        sequences[place]["last_iteration"] = last
    engine["decoding"] += engine["prefilling"]
    engine["prefilling"] = 0


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
        complete_task(state, task)
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
        if latency["token_budget"] > 0:
            engine["event"] = now + _mixed_time(state, e)
        else:
            engine["event"] = now + _prefill_time(latency, engine["prefill_tokens"])
    elif engine["decoding"] > 0:
        next_to_complete = state.sequences[e, engine["decoding"] - 1]
        engine["iterations"] = next_to_complete["last_iteration"] - engine["iteration"]
        engine["event"] = now + _run_time(latency, engine, engine["iterations"])
    else:
        engine["event"] = NEVER


# --- How long it takes ----------------------------------------------------------------------------


@inlined
def _prefill_time(latency: Any, tokens: int) -> int:
    ticks = latency["e"] + latency["f"] * tokens + latency["g"] * tokens * tokens
    return math.floor(max(latency["p0"], ticks) + 0.5)


@inlined
def _mixed_time(state: ClusterState, e: int) -> int:
    """Ticks of an iteration that takes prompt tokens beside the decoding sequences."""
    latency, engine = state.latency[0], state.engines[e]
    left = latency["token_budget"] - engine["decoding"]
    tokens, squares, done = 0, 0, engine["prefilled"]
    for k in range(engine["decoding"], engine["decoding"] + engine["prefilling"]):
        n = min(_prompt(state, e, k) - done, left)
        tokens += n
        squares += n * (2 * done + n)
        left -= n
        done = 0
    ticks = latency["e"] + latency["f"] * tokens + latency["g"] * squares
    decoding = latency["c"] * engine["decoding"] + latency["d"] * engine["kv"]
    return math.floor(max(latency["p0"], ticks) + 0.5) + decoding


@inlined
def _prompt(state: ClusterState, e: int, k: int) -> int:
    """Prompt tokens of a sequence of an engine."""
    return state.tasks[state.sequences[e, k]["task"]]["prompt_tokens"]


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
