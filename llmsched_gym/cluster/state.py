"""The tables of one simulated cluster: what its compiled simulator reads and writes.

Time is counted in :mod:`~llmsched_gym.cluster.ticks`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.cluster.limits import check_fits
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.ticks import LAST_ARRIVAL_S, NEVER, NO_LIMIT, TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Kind

Table = NDArray[np.void]
IntArray = NDArray[np.int64]
CLOCK = np.dtype(
    [
        ("now", np.int64),  # ticks
        ("limit", np.int64),  # ticks: the episode is truncated rather than pass it
        ("num_jobs", np.int64),  # of the whole episode
        ("arrived", np.int64),  # jobs that have arrived (jobs are numbered in order of arrival)
        ("finished", np.int64),  # jobs that have completed
        ("active", np.int64),  # length of the list `active`: arrived - finished
        ("ready", np.int64),  # length of the list `ready`
        ("ready_regular", np.int64),  # regular stages in it
        ("changed", np.int64),  # length of the list `changed`
        ("regular_free", np.int64),  # idle regular executors
        ("next_regular", np.int64),  # ticks: the earliest end on a regular executor, or NEVER
        ("llm_running", np.int64),  # LLM tasks dispatched and not completed
        ("largest_need", np.int64),  # tokens: the largest KV reservation of any task
        ("dispatched", np.int64),  # tasks dispatched so far
        ("room", np.int64),  # KV tokens free on the emptiest engine with a free slot, -1 if none
        ("can_wait", np.int64),  # 1 if something runs or will arrive
        ("slowdown", np.float64),  # l(b, kv) / l(1, kv / b), mean over the busy engines
        ("job_seconds", np.float64),  # time integral of the number of jobs in the system, s
    ]
)
JOB = np.dtype(
    [
        ("bank_job", np.int64),  # index in the bank the job was drawn from
        ("application", np.int64),
        ("first_stage", np.int64),
        ("num_stages", np.int64),  # hidden ones included
        ("arrival", np.int64),  # ticks
        ("completion", np.int64),  # ticks, -1 before
        ("unfinished_stages", np.int64),  # hidden ones included
        ("running_tasks", np.int64),
        ("completed_tasks", np.int64),
        ("attained", np.int64),  # ticks: slot time used, up to `attained_until`
        ("attained_until", np.int64),  # ticks
        ("changed", np.int64),  # what `changed` lists it for: NO_CHANGE, STARTED, ...
    ]
)
STAGE = np.dtype(
    [
        ("job", np.int64),
        ("kind", np.int64),  # workload.job.Kind
        ("canonical", np.int64),  # row of the TemplateTable, -1 if unknown there
        ("num_tasks", np.int64),
        ("first_task", np.int64),
        ("started_tasks", np.int64),  # tasks first_task, first_task + 1, ... in this order
        ("completed_tasks", np.int64),
        ("visible", np.int64),  # 1 once arrived and revealed
        ("unfinished_parents", np.int64),
        ("revealed_by", np.int64),  # stage, -1 if known at arrival
        ("ready_slot", np.int64),  # its place in the list `ready`, -1 if not there
        ("prompt_tokens", np.int64),  # of all its tasks
        ("output_limit", np.int64),  # tokens set aside for the output of each of its tasks
        ("demand", np.int64),  # ticks of service at batch size 1, all tasks: hidden until complete
    ]
)
TASK = np.dtype(
    [
        ("stage", np.int64),
        ("prompt_tokens", np.int64),
        ("output_tokens", np.int64),
        ("demand", np.int64),  # ticks of service at batch size 1
        ("work", np.int64),  # ticks it takes of an engine that is always full, or of its executor
        ("start", np.int64),  # ticks, -1 before
        ("end", np.int64),  # ticks, -1 before
        ("executor", np.int64),  # engine or regular executor, -1 before
    ]
)
ENGINE = np.dtype(
    [
        ("running", np.int64),  # sequences on it: decoding, prefilling and joining
        ("decoding", np.int64),
        ("prefilling", np.int64),  # above 0 while a prefill, or a mixed iteration, is in flight
        ("reserved", np.int64),  # KV tokens: prompts and output limits of all sequences on it
        ("since", np.int64),  # ticks: when this prefill or run of decode iterations began
        ("event", np.int64),  # ticks: when it ends, or NEVER on an idle engine
        ("iteration", np.int64),  # decode iterations done before `since`
        ("iterations", np.int64),  # decode iterations of this run
        ("kv", np.int64),  # tokens held by the decoding sequences at `since`
        ("prefill_tokens", np.int64),  # prompts of the prefilling sequences
        ("prefilled", np.int64),  # tokens of the first of them that earlier mixed iterations took
        ("joining_tokens", np.int64),  # prompts of the sequences that wait for the next boundary
    ]
)
SEQUENCE = np.dtype(
    [
        ("task", np.int64),
        ("last_iteration", np.int64),  # `iteration` of its engine when it completes, once decoding
    ]
)
EXECUTOR = np.dtype(
    [
        ("task", np.int64),  # -1 if idle
        ("end", np.int64),  # ticks, NEVER if idle
    ]
)
LATENCY = np.dtype(
    [
        ("a", np.int64),  # ticks per decode iteration
        ("c", np.int64),  # ticks per decode iteration and sequence
        ("d", np.int64),  # ticks per decode iteration and token held
        ("p0", np.float64),  # ticks, the shortest prefill
        ("e", np.float64),  # ticks per prefill
        ("f", np.float64),  # ticks per prompt token
        ("g", np.float64),  # ticks per prompt token squared
        ("kv_capacity", np.int64),  # tokens per engine
        ("token_budget", np.int64),  # of a mixed iteration at most; 0: prefills are exclusive
        ("late", np.int64),  # 1: who is dispatched at a boundary misses the iteration that begins
    ]
)
CHANGING = (  # tables of a state, after the first arrival
    *("clock", "jobs", "stages", "tasks", "ready", "active", "changed"),
    *("engines", "sequences", "executors"),
)
# What happened to a job: nothing; a task started; one completed; a stage completed, or it arrived.
NO_CHANGE, STARTED, PROGRESS, EVIDENCE = range(4)


class ClusterState(NamedTuple):
    """An episode on a cluster of E engines with B slots and R regular executors.

    It has J jobs in order of arrival, S stages in all (those of a job follow each other in
    its own order) and T tasks. Row s of a compressed pair ``(x_of, x)`` is
    ``x[x_of[s]:x_of[s + 1]]``. All arrays are plain, so a state can be pickled.

    Attributes
    ----------
    clock : CLOCK [1].
    jobs : JOB [J].
    stages : STAGE [S].
    tasks : TASK [T].
    parents_of, parents : stages that must complete before stage s.
    children_of, children : stages that wait for stage s.
    reveals_of, reveals : stages that the completion of stage s reveals.
    ready : int64 [S], the first ``clock.ready`` entries are the stages with parents complete and a
        waiting task, in no particular order.
    active : int64 [J], the first ``clock.active`` entries are the jobs in the system, in order of
        arrival.
    changed : int64 [J], the first ``clock.changed`` entries are the jobs whose flag ``changed`` is
        set, in the order in which it was.
    engines : ENGINE [E].
    sequences : SEQUENCE [E, B]; of each engine first the decoding ones, the last to complete
        first, then the prefilling and the joining ones in the order of their dispatch.
    executors : EXECUTOR [R].
    latency : LATENCY [1].
    """

    clock: Table
    jobs: Table
    stages: Table
    tasks: Table
    parents_of: IntArray
    parents: IntArray
    children_of: IntArray
    children: IntArray
    reveals_of: IntArray
    reveals: IntArray
    ready: IntArray
    active: IntArray
    changed: IntArray
    engines: Table
    sequences: Table
    executors: Table
    latency: Table


@register_jitable
def episode(states: ClusterState, number: int) -> ClusterState:
    """One of many episodes: views of arrays that have one more, leading dimension.

    Rows beyond those of the episode are padding.
    """
    return ClusterState(
        clock=states.clock[number],
        jobs=states.jobs[number],
        stages=states.stages[number],
        tasks=states.tasks[number],
        parents_of=states.parents_of[number],
        parents=states.parents[number],
        children_of=states.children_of[number],
        children=states.children[number],
        reveals_of=states.reveals_of[number],
        reveals=states.reveals[number],
        ready=states.ready[number],
        active=states.active[number],
        changed=states.changed[number],
        engines=states.engines[number],
        sequences=states.sequences[number],
        executors=states.executors[number],
        latency=states.latency[number],
    )


def new_state(
    bank: JobBank,
    job_indices: ArrayLike,
    arrival_s: ArrayLike,
    cluster: Cluster,
    canonical: IntArray,
    time_limit_s: float | None = None,
) -> ClusterState:
    """The state before the first arrival.

    Parameters
    ----------
    bank : JobBank
        Jobs that fit the cluster (``check_fits``).
    job_indices : int [J]
        The jobs of the episode, in order of arrival.
    arrival_s : float [J]
        Seconds, ascending, within 0 to ``LAST_ARRIVAL_S``.
    cluster : Cluster
        Engines, slots, executors and latency.
    canonical : int64 [stages of the bank]
        Rows of a ``TemplateTable`` (``workload.template.canonical_stages``).
    time_limit_s : float or None
        Seconds after which the episode is truncated; default, and at most, 4.5e6.

    Raises
    ------
    ValueError
        if there is no job, an index is not in the bank, the arrivals are not as many, not
        ascending or out of range, or the time limit is not above 0.
    TaskTooLarge
        if a task exceeds the KV capacity.
    """
    index = np.asarray(job_indices, np.int64)
    if len(index) == 0 or index.min() < 0 or index.max() >= len(bank):
        raise ValueError(f"job_indices: at least one is needed, each from 0 to {len(bank) - 1}")
    arrival = _arrival_ticks(np.asarray(arrival_s, np.float64), len(index))
    jobs, from_bank = _new_jobs(bank, index, arrival)
    tasks, stage_tasks = _new_tasks(bank, from_bank, cluster)
    stages, graph = _new_stages(bank, from_bank, jobs, tasks, stage_tasks)
    stages["canonical"] = canonical[from_bank]
    room = cluster.latency.kv_capacity_tokens
    if (tasks["prompt_tokens"] + tasks["output_tokens"]).max() > room:
        check_fits(bank, cluster)  # raises, and says which
    longest = np.maximum.reduceat(tasks["prompt_tokens"], stage_tasks[:-1])
    stages["output_limit"] = np.minimum(stages["output_limit"], room - longest)
    need = longest + stages["output_limit"]
    clock = _new_clock(len(index), cluster, _limit(time_limit_s))
    clock["largest_need"] = need.max()
    return ClusterState(
        clock=clock,
        jobs=jobs,
        stages=stages,
        tasks=tasks,
        **graph,  # type: ignore[arg-type]
        ready=np.zeros(len(stages), np.int64),
        active=np.zeros(len(jobs), np.int64),
        changed=np.zeros(len(jobs), np.int64),
        **_idle_executors(cluster),  # type: ignore[arg-type]
    )


def _new_clock(num_jobs: int, cluster: Cluster, limit: int) -> Table:
    """CLOCK [1] before the first arrival."""
    clock = np.zeros(1, CLOCK)
    clock["limit"] = limit
    clock["num_jobs"] = num_jobs
    clock["regular_free"] = cluster.regular_executors
    clock["next_regular"] = NEVER
    return clock


def _new_jobs(bank: JobBank, index: IntArray, arrival: IntArray) -> tuple[Table, IntArray]:
    """JOB [J], and the bank's stage of each of the S stages."""
    job_stages, from_bank = _rows(bank.job_stages, index)
    jobs = np.zeros(len(index), JOB)
    jobs["bank_job"] = index
    jobs["application"] = bank.job_application[index]
    jobs["first_stage"] = job_stages[:-1]
    jobs["num_stages"] = jobs["unfinished_stages"] = np.diff(job_stages)
    jobs["arrival"] = jobs["attained_until"] = arrival
    jobs["completion"] = -1
    return jobs, from_bank


def _new_tasks(bank: JobBank, from_bank: IntArray, cluster: Cluster) -> tuple[Table, IntArray]:
    """TASK [T], and where the tasks of each stage begin: int64 [S + 1]."""
    stage_tasks, tasks_from_bank = _rows(bank.stage_tasks, from_bank)
    tasks = np.empty(len(tasks_from_bank), TASK)
    tasks["stage"] = np.repeat(np.arange(len(from_bank)), np.diff(stage_tasks))
    tasks["prompt_tokens"] = prompt = bank.prompt_tokens[tasks_from_bank]
    tasks["output_tokens"] = output = bank.output_tokens[tasks_from_bank]
    tasks["demand"] = np.where(
        prompt > 0,
        cluster.latency.demand_ticks(prompt, output),
        np.rint(bank.duration_s[tasks_from_bank] * TICKS_PER_SECOND).astype(np.int64),
    )
    work = cluster.latency.engine_seconds(prompt, output, cluster.max_batch) * TICKS_PER_SECOND
    tasks["work"] = np.where(prompt > 0, np.rint(work).astype(np.int64), tasks["demand"])
    tasks["start"] = tasks["end"] = tasks["executor"] = -1
    return tasks, stage_tasks


def _new_stages(
    bank: JobBank, from_bank: IntArray, jobs: Table, tasks: Table, stage_tasks: IntArray
) -> tuple[Table, dict[str, IntArray]]:
    """STAGE [S] without ``canonical``, and who waits for and is revealed by whom."""
    stage_job = np.repeat(np.arange(len(jobs)), jobs["num_stages"])
    first_stage = jobs["first_stage"][stage_job]
    parents_of, edges = _rows(bank.stage_parents, from_bank)
    parents = bank.parents[edges] + np.repeat(first_stage, np.diff(parents_of))
    child = np.repeat(np.arange(len(from_bank)), np.diff(parents_of))
    revealed_by = bank.stage_revealed_by[from_bank]
    revealed_by = np.where(revealed_by < 0, -1, revealed_by + first_stage)
    hidden = np.flatnonzero(revealed_by >= 0)

    stages = np.zeros(len(from_bank), STAGE)
    stages["job"] = stage_job
    stages["kind"] = kind = bank.stage_kind[from_bank]
    stages["num_tasks"] = np.diff(stage_tasks)
    stages["first_task"] = stage_tasks[:-1]
    stages["unfinished_parents"] = np.diff(parents_of)
    stages["revealed_by"] = revealed_by
    stages["ready_slot"] = -1
    stages["prompt_tokens"] = np.add.reduceat(tasks["prompt_tokens"], stage_tasks[:-1])
    limit = bank.output_limit[jobs["application"]][stage_job]
    stages["output_limit"] = np.where(kind == Kind.LLM, limit, 0)
    stages["demand"] = np.add.reduceat(tasks["demand"], stage_tasks[:-1])

    children_of, children = _group(parents, child, len(stages))
    reveals_of, reveals = _group(revealed_by[hidden], hidden, len(stages))
    return stages, {
        "parents_of": parents_of,
        "parents": parents,
        "children_of": children_of,
        "children": children,
        "reveals_of": reveals_of,
        "reveals": reveals,
    }


def _idle_executors(cluster: Cluster) -> dict[str, Table]:
    """ENGINE [E], SEQUENCE [E, B], EXECUTOR [R] and LATENCY [1] of a cluster without work."""
    engines = np.zeros(cluster.engines, ENGINE)
    engines["event"] = NEVER
    executors = np.empty(cluster.regular_executors, EXECUTOR)
    executors["task"], executors["end"] = -1, NEVER
    latency = np.zeros(1, LATENCY)
    for name, value in zip("acd", cluster.latency.decode_coefficients, strict=True):
        latency[name] = value
    for name, prefill in zip(
        ("p0", "e", "f", "g"), cluster.latency.prefill_coefficients, strict=True
    ):
        latency[name] = prefill
    latency["kv_capacity"] = cluster.latency.kv_capacity_tokens
    latency["token_budget"] = cluster.latency.token_budget or 0
    latency["late"] = cluster.latency.late
    return {
        "engines": engines,
        "sequences": np.zeros((cluster.engines, cluster.max_batch), SEQUENCE),
        "executors": executors,
        "latency": latency,
    }


def new_states(bank: JobBank, cluster: Cluster, num_jobs: int, count: int) -> ClusterState:
    """Room for any ``count`` episodes of ``num_jobs`` jobs of a bank (see :func:`episode`).

    Pages of memory that no episode writes to are never used.
    """
    one = new_state(bank, [0], [0.0], cluster, np.zeros(len(bank.stage_kind), np.int64))
    tasks = np.diff(bank.stage_tasks[bank.job_stages])
    parents = np.diff(bank.stage_parents[bank.job_stages])
    most_stages = num_jobs * int(np.diff(bank.job_stages).max())
    most_parents = num_jobs * int(parents.max())
    of_jobs = dict.fromkeys(("jobs", "active", "changed"), num_jobs)
    of_stages = dict.fromkeys(("stages", "ready", "reveals"), most_stages)
    of_rows = dict.fromkeys(("parents_of", "children_of", "reveals_of"), most_stages + 1)
    of_parents = dict.fromkeys(("parents", "children"), most_parents)
    rows = of_jobs | of_stages | of_rows | of_parents | {"tasks": num_jobs * int(tasks.max())}
    return ClusterState(
        **{
            name: np.zeros((count, rows.get(name, len(table)), *table.shape[1:]), table.dtype)
            for name, table in one._asdict().items()
        }
    )


def copy_state(state: ClusterState) -> ClusterState:
    """An independent copy."""
    return ClusterState._make(copied(table) for table in state)


def copy_running(state: ClusterState) -> ClusterState:
    """A copy that goes on by itself: what never changes in an episode is shared."""
    changing: dict[str, Any] = {name: copied(getattr(state, name)) for name in CHANGING}
    return state._replace(**changing)


def copied(table: NDArray[Any]) -> NDArray[Any]:
    """A copy of the bytes: numpy copies a table field by field, in ten times the time."""
    return table.view(np.uint8).copy().view(table.dtype)


def _arrival_ticks(arrival_s: NDArray[np.float64], num_jobs: int) -> IntArray:
    if arrival_s.shape != (num_jobs,):
        raise ValueError(f"arrival_s: {num_jobs} times are needed, got shape {arrival_s.shape}")
    if not (np.diff(arrival_s) >= 0).all():
        raise ValueError("arrival_s: the times are not ascending")
    if not (arrival_s[0] >= 0 and arrival_s[-1] <= LAST_ARRIVAL_S):
        raise ValueError(
            f"arrival_s: {arrival_s[0]:g} to {arrival_s[-1]:g} s is not within 0 to "
            f"{LAST_ARRIVAL_S:g} s"
        )
    return np.rint(arrival_s * TICKS_PER_SECOND).astype(np.int64)


def _limit(time_limit_s: float | None) -> int:
    if time_limit_s is None:
        return NO_LIMIT
    if not time_limit_s > 0:
        raise ValueError(f"time_limit_s: {time_limit_s} is not above 0")
    return min(round(min(time_limit_s, 1e7) * TICKS_PER_SECOND), NO_LIMIT)


def _rows(starts: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Some rows of compressed rows: their new starts, and the old place of each member."""
    first, counts = starts[rows], starts[rows + 1] - starts[rows]
    new = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(counts, out=new[1:])
    return new, np.arange(new[-1]) + np.repeat(first - new[:-1], counts)


def _group(rows: IntArray, members: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """Compressed rows of ``count`` rows out of pairs (row, member)."""
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=starts[1:])
    return starts, members[np.argsort(rows, kind="stable")]
