"""From the state of a cluster and the beliefs about its jobs to the observation, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from llmsched_gym.cluster.state import EVIDENCE
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.compiled import inlined, kernel
from llmsched_gym.env.features import CLUSTER_COLUMN as C
from llmsched_gym.env.features import JOB_COLUMN as J
from llmsched_gym.env.features import STAGE_COLUMN as S
from llmsched_gym.env.features import STAGE_FEATURES, Observation


class Shown(NamedTuple):
    """What :func:`observe` keeps from one observation to the next: what each of J jobs shows.

    A job has up to R rows and E edges. Only jobs in ``state.changed`` are read anew.

    Attributes
    ----------
    stage : int64 [J, R], the stage a row of the job shows, -1 for a placeholder.
    size : int64 [J, 3], rows and edges in use, and waiting tasks of ready stages.
    features : float32 [J, R, stage features], except ``demand_s``,
    demand_s : float64 [J, R, 2], of its LLM part at batch size 1, and of its regular part.
    edges : int32 [J, E, 2], between rows of the job, ordered by target.
    of_stage : int64 [S], the row of a stage in its job, only meaningful for shown stages.
    of_placeholder : int64 [S], the row of the placeholder hung on a stage, -1 if there is none.
    descendants : uint64 [R, words], scratch: bit sets over the rows of one job.
    rows : int64 [max_stages], the stage that each row in use of the observation shows, -1 for a
        placeholder.
    """

    stage: NDArray[np.int64]
    size: NDArray[np.int64]
    features: NDArray[np.float32]
    demand_s: NDArray[np.float64]
    edges: NDArray[np.int32]
    of_stage: NDArray[np.int64]
    of_placeholder: NDArray[np.int64]
    descendants: NDArray[np.uint64]
    rows: NDArray[np.int64]


@register_jitable
def shown_of(shown: Shown, number: int) -> Shown:
    """What one of many clusters shows: views of arrays with one more, leading dimension."""
    return Shown(
        stage=shown.stage[number],
        size=shown.size[number],
        features=shown.features[number],
        demand_s=shown.demand_s[number],
        edges=shown.edges[number],
        of_stage=shown.of_stage[number],
        of_placeholder=shown.of_placeholder[number],
        descendants=shown.descendants[number],
        rows=shown.rows[number],
    )


@register_jitable
def observation_of(out: Observation, number: int) -> Observation:
    """The observation of one of many clusters: views of arrays with one more dimension."""
    return Observation(
        stages=out.stages[number],
        stage_job=out.stage_job[number],
        stage_mask=out.stage_mask[number],
        edges=out.edges[number],
        edge_mask=out.edge_mask[number],
        jobs=out.jobs[number],
        job_mask=out.job_mask[number],
        cluster=out.cluster[number],
        action_mask=out.action_mask[number],
    )


def new_shown(
    max_stages: int,
    num_jobs: int,
    num_stages: int,
    rows_of_a_job: int,
    edges_of_a_job: int,
    *clusters: int,
) -> Shown:
    """Nothing is shown yet, of an episode with up to ``num_stages`` stages in all.

    ``clusters`` is a leading dimension, if any.
    """
    return Shown(
        stage=np.zeros((*clusters, num_jobs, rows_of_a_job), np.int64),
        size=np.zeros((*clusters, num_jobs, 3), np.int64),
        features=np.zeros((*clusters, num_jobs, rows_of_a_job, len(STAGE_FEATURES)), np.float32),
        demand_s=np.zeros((*clusters, num_jobs, rows_of_a_job, 2)),
        edges=np.zeros((*clusters, num_jobs, edges_of_a_job, 2), np.int32),
        of_stage=np.zeros((*clusters, num_stages), np.int64),
        of_placeholder=np.zeros((*clusters, num_stages), np.int64),
        descendants=np.zeros((*clusters, rows_of_a_job, (rows_of_a_job + 63) // 64), np.uint64),
        rows=np.zeros((*clusters, max_stages), np.int64),
    )


# --- What a job shows -----------------------------------------------------------------------------


@inlined
def _read_changed(state, templates, stage_beliefs, shown):
    """Read the jobs in ``state.changed`` anew, and empty that list."""
    jobs = state.jobs
    for k in range(state.clock["changed"][0]):
        job = state.changed[k]
        if jobs["changed"][job] == EVIDENCE:
            _lay_out(state, templates, shown, job)
        _read_rows(state, templates, stage_beliefs[job], shown, job)
        jobs["changed"][job] = 0
    state.clock["changed"][0] = 0


@inlined
def _lay_out(state, templates, shown, job):
    """Give every visible unfinished stage of a job, and every placeholder, its row; join them.

    Rows are in topological order of the graph that is seen, ties in the order of the job: neither
    tells anything of what is hidden. Mostly the order of the job is a topological one already.
    """
    edges = shown.edges[job]
    row = _place_in_turn(state, templates, shown, job)
    count = _join(state, templates, shown, shown.stage[job, :row], edges)
    if not _ascending(edges[:count]):
        _place_as_free(state, templates, shown, job)
        count = _join(state, templates, shown, shown.stage[job, :row], edges)
    _count_descendants(edges[:count], shown.descendants[:row], shown.features[job])
    shown.size[job, 0] = row
    shown.size[job, 1] = count


@inlined
def _place_in_turn(state, templates, shown, job):
    """Rows in the order of the job; returns their number."""
    row = 0
    first = state.jobs["first_stage"][job]
    for stage in range(first, first + state.jobs["num_stages"][job]):
        if _is_shown(state.stages, stage):
            row = _place(state, templates, shown, job, stage, row)
    return row


@inlined
def _place_as_free(state, templates, shown, job):
    """Rows in topological order: by turns, the first stage that waits for none without a row."""
    stages, first = state.stages, state.jobs["first_stage"][job]
    last = first + state.jobs["num_stages"][job]
    for stage in range(first, last):
        shown.of_stage[stage] = -1
    row = 0
    stage = first
    while stage < last:
        placed = shown.of_stage[stage] >= 0
        if placed or not _is_shown(stages, stage) or _waits_for_a_row(state, shown, stage):
            stage += 1
        else:
            row = _place(state, templates, shown, job, stage, row)
            stage = first


@inlined
def _place(state, templates, shown, job, stage, row):
    """Give a stage and its placeholder their rows; returns the next row."""
    shown.stage[job, row] = stage
    shown.of_stage[stage] = row
    shown.of_placeholder[stage] = -1
    row += 1
    if _may_reveal(templates, state.stages["canonical"][stage]):
        shown.stage[job, row] = -1
        shown.of_placeholder[stage] = row
        row += 1
    return row


@inlined
def _waits_for_a_row(state, shown, stage):
    """Whether something that a stage is seen to wait for has no row yet."""
    for k in range(state.parents_of[stage], state.parents_of[stage + 1]):
        source = _seen_as(state.stages, state.parents[k])
        if not _complete(state.stages, source) and shown.of_stage[source] < 0:
            return True
    return False


@inlined
def _ascending(edges):
    """Whether all edges lead from lower to higher rows."""
    falling = 0
    for k in range(len(edges)):
        falling += edges[k, 0] >= edges[k, 1]
    return falling == 0


@inlined
def _read_rows(state, templates, believed, shown, job):
    """The features of a job's rows."""
    stages, rows = state.stages, shown.stage[job]
    base = templates.first[state.jobs["application"][job]]
    waiting = 0
    for row in range(shown.size[job, 0]):
        stage = rows[row]
        features, demand_s = shown.features[job, row], shown.demand_s[job, row]
        if stage >= 0:
            _read_stage(stages, believed, base, stage, features, demand_s)
            if stages["unfinished_parents"][stage] == 0:
                waiting += stages["num_tasks"][stage] - stages["started_tasks"][stage]
        else:
            revealer = stages["canonical"][rows[row - 1]]
            _read_placeholder(templates, believed, base, revealer, features, demand_s)
    shown.size[job, 2] = waiting


@inlined
def _is_shown(stages, stage):
    return stages["visible"][stage] and not _complete(stages, stage)


@inlined
def _seen_as(stages, stage):
    """The stage itself if it is visible, or else the visible one that its reveal waits for."""
    while not stages["visible"][stage]:
        stage = stages["revealed_by"][stage]
    return stage


@inlined
def _complete(stages, stage):
    return stages["completed_tasks"][stage] == stages["num_tasks"][stage]


@inlined
def _may_reveal(templates, canonical):
    return canonical >= 0 and templates.reveals_of[canonical] < templates.reveals_of[canonical + 1]


@inlined
def _read_stage(stages, believed, base, stage, out, demand_s):
    kind = stages["kind"][stage]
    tasks = stages["num_tasks"][stage]
    completed = stages["completed_tasks"][stage]
    ready = stages["unfinished_parents"][stage] == 0
    out[S.is_llm] = kind == 0
    out[S.is_regular] = kind == 1
    out[S.is_dynamic] = 0.0
    out[S.ready] = ready
    out[S.waiting_tasks] = tasks - stages["started_tasks"][stage]
    out[S.running_tasks] = stages["started_tasks"][stage] - completed
    out[S.completed_tasks] = completed
    out[S.prompt_tokens] = stages["prompt_tokens"][stage] if ready else 0
    out[S.presence] = out[S.entropy_bits] = out[S.uncertainty_reduction] = out[S.work_s] = 0.0
    demand_s[:] = 0.0
    canonical = stages["canonical"][stage]
    if canonical >= 0:
        belief = canonical - base
        left = (tasks - completed) / tasks
        out[S.presence] = believed["presence"][belief]
        out[S.entropy_bits] = believed["entropy_bits"][belief]
        out[S.uncertainty_reduction] = believed["reduction"][belief] if ready else 0.0
        out[S.work_s] = believed["work_s"][belief] * left
        demand_s[kind] = believed["demand_s"][belief] * left


@inlined
def _read_placeholder(templates, believed, base, revealer, out, demand_s):
    out[S.is_llm] = out[S.is_regular] = out[S.ready] = 0.0
    out[S.is_dynamic] = 1.0
    out[S.waiting_tasks] = out[S.running_tasks] = out[S.completed_tasks] = 0.0
    out[S.prompt_tokens] = out[S.uncertainty_reduction] = 0.0
    out[S.presence] = out[S.entropy_bits] = out[S.work_s] = 0.0
    demand_s[:] = 0.0
    for k in range(templates.reveals_of[revealer], templates.reveals_of[revealer + 1]):
        hidden = templates.reveals[k]
        out[S.presence] += believed["presence"][hidden - base]
        out[S.entropy_bits] += believed["entropy_bits"][hidden - base]
        out[S.work_s] += believed["work_s"][hidden - base]
        demand_s[templates.kind[hidden]] += believed["demand_s"][hidden - base]


@inlined
def _join(state, templates, shown, rows, edges):
    """The edges between a job's rows, ordered by target row; returns their number."""
    stages = state.stages
    count = 0
    for row in range(len(rows)):
        stage = rows[row]
        if stage < 0:
            count = _add_edge(edges, count, count, row - 1, row)
            continue
        since = count
        for k in range(state.parents_of[stage], state.parents_of[stage + 1]):
            source = _seen_as(stages, state.parents[k])
            if not _complete(stages, source):
                count = _add_edge(edges, since, count, shown.of_stage[source], row)
        _sort_sources(edges[since:count])  # the order of the parents tells of hidden ones
        canonical = stages["canonical"][stage]
        if canonical < 0:
            continue
        for k in range(templates.awaits_of[canonical], templates.awaits_of[canonical + 1]):
            for other in range(row):
                revealer = rows[other]
                if revealer >= 0 and stages["canonical"][revealer] == templates.awaits[k]:
                    source = shown.of_placeholder[revealer]
                    if source >= 0:
                        count = _add_edge(edges, since, count, source, row)
    return count


@inlined
def _add_edge(edges, since, count, source, target):
    """Append an edge unless it is there already, among those from number ``since`` on."""
    for k in range(since, count):
        if edges[k, 0] == source:
            return count
    edges[count, 0] = source
    edges[count, 1] = target
    return count + 1


@inlined
def _sort_sources(edges):
    """Sort edges to the same target by their source."""
    for k in range(1, len(edges)):
        source, place = edges[k, 0], k
        while place > 0 and edges[place - 1, 0] > source:
            edges[place, 0] = edges[place - 1, 0]
            place -= 1
        edges[place, 0] = source


@inlined
def _count_descendants(edges, sets, features):
    """Count the rows below each row: one backward sweep, for edges are ordered by target."""
    sets[:] = 0
    for k in range(len(edges) - 1, -1, -1):
        source, target = edges[k, 0], edges[k, 1]
        for word in range(sets.shape[1]):
            sets[source, word] |= sets[target, word]
        sets[source, target >> 6] |= np.uint64(1) << np.uint64(target & 63)
    for row in range(len(sets)):
        total = 0
        for word in range(sets.shape[1]):
            bits = sets[row, word]
            while bits:
                bits &= bits - np.uint64(1)
                total += 1
        features[row, S.descendants] = total


# --- The observation ------------------------------------------------------------------------------


@inlined
def _write_job(state, belief, slowdown, job, waiting, out):
    jobs, now = state.jobs, state.clock["now"][0]
    used = jobs["attained"][job]
    used += jobs["running_tasks"][job] * (now - jobs["attained_until"][job])
    out[J.application] = jobs["application"][job]
    out[J.age_s] = (now - jobs["arrival"][job]) / TICKS_PER_SECOND
    out[J.waiting_tasks] = waiting
    out[J.running_tasks] = jobs["running_tasks"][job]
    out[J.completed_tasks] = jobs["completed_tasks"][job]
    out[J.attained_s] = used / TICKS_PER_SECOND
    out[J.prior_demand_s] = belief["prior_llm_s"] + belief["prior_regular_s"]
    out[J.demand_s] = belief["llm_s"] * slowdown + belief["regular_s"]
    out[J.demand_std_s] = _std(belief, slowdown)
    out[J.demand_low_s] = belief["low_llm_s"] * slowdown + belief["low_regular_s"]
    out[J.demand_high_s] = belief["high_llm_s"] * slowdown + belief["high_regular_s"]
    out[J.demand_llm_s] = belief["llm_s"] * slowdown
    mean = belief["llm_s"] + belief["regular_s"]
    out[J.gittins_s] = belief["gittins_s"] * out[J.demand_s] / mean if mean > 0.0 else 0.0
    out[J.work_llm_s] = belief["work_llm_s"]
    out[J.work_regular_s] = belief["regular_s"]
    out[J.prior_work_llm_s] = belief["prior_work_llm_s"]
    out[J.prior_work_regular_s] = belief["prior_regular_s"]


@inlined
def _write_cluster(state, shown, slowdown, out):
    clock = state.clock
    slots = state.sequences.size
    out[C.time_s] = clock["now"][0] / TICKS_PER_SECOND
    out[C.jobs_in_system] = clock["active"][0]
    out[C.jobs_not_shown] = clock["active"][0] - shown
    out[C.jobs_to_arrive] = clock["num_jobs"][0] - clock["arrived"][0]
    out[C.llm_slots] = slots
    out[C.llm_free] = slots - clock["llm_running"][0]
    out[C.regular_executors] = len(state.executors)
    out[C.regular_free] = clock["regular_free"][0]
    out[C.batch_slowdown] = slowdown


@inlined
def _std(belief, slowdown):
    variance = belief["variance_llm"] * slowdown**2 + belief["variance_regular"]
    return np.sqrt(max(variance + 2.0 * belief["covariance"] * slowdown, 0.0))


@kernel
def observe(state, templates, stage_beliefs, job_beliefs, shown, asked, used, out):
    """Write the observation of a cluster into ``out``.

    ``asked`` is whether a decision is due: at the end of an episode only waiting is legal.
    ``used`` (int64 [3]: rows, edges and jobs in use) says what was in ``out`` before, and then
    what is. Afterwards ``state.changed`` is empty.
    """
    _read_changed(state, templates, stage_beliefs, shown)
    slowdown = state.clock["slowdown"][0]
    row = edge = position = 0
    while position < min(state.clock["active"][0], len(out.job_mask)):
        job = state.active[position]
        if row + shown.size[job, 0] > len(out.stage_mask):
            break  # a job is shown whole or not at all
        _write_rows(shown, job, position, row, slowdown, out)
        _write_edges(shown, job, row, edge, out)
        _write_job(state, job_beliefs[job], slowdown, job, shown.size[job, 2], out.jobs[position])
        out.job_mask[position] = 1
        row += shown.size[job, 0]
        edge += shown.size[job, 1]
        position += 1
    _clear(row, edge, position, used, out)
    _write_cluster(state, position, slowdown, out.cluster)
    if asked:
        _write_legal(state, shown.rows[:row], out)
    out.action_mask[-1] = not asked or state.clock["can_wait"][0]


@inlined
def _write_rows(shown, job, position, first, slowdown, out):
    for k in range(shown.size[job, 0]):
        row = first + k
        for column in range(out.stages.shape[1]):
            out.stages[row, column] = shown.features[job, k, column]
        demand_s = shown.demand_s[job, k]
        out.stages[row, S.demand_s] = demand_s[0] * slowdown + demand_s[1]
        out.stage_job[row] = position
        out.stage_mask[row] = 1
        out.action_mask[row] = 0
        shown.rows[row] = shown.stage[job, k]


@inlined
def _write_edges(shown, job, row, first, out):
    for k in range(shown.size[job, 1]):
        out.edges[first + k, 0] = row + shown.edges[job, k, 0]
        out.edges[first + k, 1] = row + shown.edges[job, k, 1]
        out.edge_mask[first + k] = 1


@inlined
def _clear(row, edge, position, used, out):
    """Zero what was in use and is not any more."""
    for k in range(row, used[0]):
        out.stages[k] = 0.0
        out.stage_job[k] = out.stage_mask[k] = out.action_mask[k] = 0
    for k in range(edge, used[1]):
        out.edges[k] = 0
        out.edge_mask[k] = 0
    for k in range(position, used[2]):
        out.jobs[k] = 0.0
        out.job_mask[k] = 0
    used[0], used[1], used[2] = row, edge, position


@inlined
def _write_legal(state, stages_shown, out):
    """Which rows the simulator's ``can_run`` allows, without asking it row by row."""
    stages, tasks = state.stages, state.tasks
    regular, room = state.clock["regular_free"][0] > 0, state.clock["room"][0]
    for row in range(len(stages_shown)):
        if out.stages[row, S.ready] == 0.0 or out.stages[row, S.waiting_tasks] == 0.0:
            continue
        stage = stages_shown[row]
        if stages["kind"][stage] == 1:
            out.action_mask[row] = regular
        else:
            task = stages["first_task"][stage] + stages["started_tasks"][stage]
            need = tasks["prompt_tokens"][task] + stages["output_limit"][stage]
            out.action_mask[row] = need <= room
