"""What an agent sees: the spaces, the features and their units."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from llmsched_gym.cluster.state import EVIDENCE, TICKS_PER_SECOND
from llmsched_gym.compiled import compiled

kernel = partial(compiled, _nrt=False)
inlined = partial(compiled, _nrt=False, forceinline=True)


class Feature(NamedTuple):
    """One column of a table of the observation."""

    name: str
    unit: str
    meaning: str


STAGE_FEATURES = (
    Feature("is_llm", "flag", "runs on an LLM engine"),
    Feature("is_regular", "flag", "runs on a regular executor"),
    Feature("is_dynamic", "flag", "placeholder of what an unfinished stage may reveal"),
    Feature("ready", "flag", "all parents are complete"),
    Feature("waiting_tasks", "tasks", "not started"),
    Feature("running_tasks", "tasks", "dispatched, not completed"),
    Feature("completed_tasks", "tasks", "completed"),
    Feature("prompt_tokens", "tokens", "of all its tasks; 0 until the stage is ready"),
    Feature("descendants", "stages", "visible unfinished stages and placeholders that wait for it"),
    Feature("presence", "probability", "that it exists (placeholder: expected number of stages)"),
    Feature("demand_s", "s", "expected remaining service demand at the current batch sizes"),
    Feature("entropy_bits", "bit", "entropy of its demand"),
    Feature("uncertainty_reduction", "bit s", "R of the stage, 0 unless ready"),
)

JOB_FEATURES = (
    Feature("application", "index", "the application it is a run of"),
    Feature("age_s", "s", "time since arrival"),
    Feature("waiting_tasks", "tasks", "of its ready stages, not started"),
    Feature("running_tasks", "tasks", "dispatched, not completed"),
    Feature("completed_tasks", "tasks", "completed"),
    Feature("attained_s", "slot s", "slot time its tasks have used"),
    Feature(
        "prior_demand_s",
        "s",
        "expected demand at arrival, at batch size 1: the same for a whole application",
    ),
    Feature("demand_s", "s", "expected remaining demand E[rem] at the current batch sizes"),
    Feature("demand_std_s", "s", "its standard deviation"),
    Feature("demand_low_s", "s", "lower end of its interval"),
    Feature("demand_high_s", "s", "upper end of its interval"),
    Feature("demand_llm_s", "s", "the part of demand_s that runs on LLM engines"),
    Feature("gittins_s", "s", "Gittins index of its remaining demand, scaled like demand_s"),
)

CLUSTER_FEATURES = (
    Feature("time_s", "s", "since the start of the episode"),
    Feature("jobs_in_system", "jobs", "arrived, not completed"),
    Feature("jobs_not_shown", "jobs", "in the system, without a row here for want of room"),
    Feature("jobs_to_arrive", "jobs", "of this episode"),
    Feature("llm_slots", "slots", "of all engines"),
    Feature("llm_free", "slots", "without a sequence"),
    Feature("regular_executors", "executors", "in all"),
    Feature("regular_free", "executors", "idle"),
    Feature("batch_slowdown", "ratio", "l(b now) / l(1), mean over the busy engines"),
)

STAGE = {feature.name: column for column, feature in enumerate(STAGE_FEATURES)}
JOB = {feature.name: column for column, feature in enumerate(JOB_FEATURES)}
CLUSTER = {feature.name: column for column, feature in enumerate(CLUSTER_FEATURES)}


class Observation(NamedTuple):
    """The arrays of one observation, in the order of the spaces.

    Rows in use come first: jobs in order of arrival, the stages of a job in topological order, each
    placeholder right after the stage that fills it. Unused rows are zero.
    """

    stages: NDArray[np.float32]
    stage_job: NDArray[np.int32]
    stage_mask: NDArray[np.int8]
    edges: NDArray[np.int32]
    edge_mask: NDArray[np.int8]
    jobs: NDArray[np.float32]
    job_mask: NDArray[np.int8]
    cluster: NDArray[np.float32]
    action_mask: NDArray[np.int8]


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


def observation_space(max_stages: int, max_edges: int, max_jobs: int) -> spaces.Dict:
    """The one-level ``Dict`` space of fixed-size boxes (finite, as the checkers demand)."""
    largest = float(np.finfo(np.float32).max)
    return spaces.Dict(
        {
            "stages": spaces.Box(0.0, largest, (max_stages, len(STAGE_FEATURES)), np.float32),
            "stage_job": spaces.Box(0, max(max_jobs - 1, 1), (max_stages,), np.int32),
            "stage_mask": spaces.Box(0, 1, (max_stages,), np.int8),
            "edges": spaces.Box(0, max(max_stages - 1, 1), (max_edges, 2), np.int32),
            "edge_mask": spaces.Box(0, 1, (max_edges,), np.int8),
            "jobs": spaces.Box(0.0, largest, (max_jobs, len(JOB_FEATURES)), np.float32),
            "job_mask": spaces.Box(0, 1, (max_jobs,), np.int8),
            "cluster": spaces.Box(0.0, largest, (len(CLUSTER_FEATURES),), np.float32),
            "action_mask": spaces.Box(0, 1, (max_stages + 1,), np.int8),
        }
    )


def empty_observation(
    max_stages: int, max_edges: int, max_jobs: int, *clusters: int
) -> Observation:
    """All zeros; large arrays cost nothing until their rows are written.

    ``clusters`` is a leading dimension, if any.
    """
    return Observation(
        np.zeros((*clusters, max_stages, len(STAGE_FEATURES)), np.float32),
        np.zeros((*clusters, max_stages), np.int32),
        np.zeros((*clusters, max_stages), np.int8),
        np.zeros((*clusters, max_edges, 2), np.int32),
        np.zeros((*clusters, max_edges), np.int8),
        np.zeros((*clusters, max_jobs, len(JOB_FEATURES)), np.float32),
        np.zeros((*clusters, max_jobs), np.int8),
        np.zeros((*clusters, len(CLUSTER_FEATURES)), np.float32),
        np.zeros((*clusters, max_stages + 1), np.int8),
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
        np.zeros((*clusters, num_jobs, rows_of_a_job), np.int64),
        np.zeros((*clusters, num_jobs, 3), np.int64),
        np.zeros((*clusters, num_jobs, rows_of_a_job, len(STAGE_FEATURES)), np.float32),
        np.zeros((*clusters, num_jobs, rows_of_a_job, 2)),
        np.zeros((*clusters, num_jobs, edges_of_a_job, 2), np.int32),
        np.zeros((*clusters, num_stages), np.int64),
        np.zeros((*clusters, num_stages), np.int64),
        np.zeros((*clusters, rows_of_a_job, (rows_of_a_job + 63) // 64), np.uint64),
        np.zeros((*clusters, max_stages), np.int64),
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
    """Give every visible unfinished stage of a job, and every placeholder, its row; join them."""
    stages, rows = state.stages, shown.stage[job]
    row = 0
    first = state.jobs["first_stage"][job]
    for stage in range(first, first + state.jobs["num_stages"][job]):
        if not stages["visible"][stage] or _complete(stages, stage):
            continue
        rows[row] = stage
        shown.of_stage[stage] = row
        shown.of_placeholder[stage] = -1
        row += 1
        if _may_reveal(templates, stages["canonical"][stage]):
            rows[row] = -1
            shown.of_placeholder[stage] = row
            row += 1
    edges = shown.edges[job]
    count = _join(state, templates, shown, rows[:row], edges)
    _count_descendants(edges[:count], shown.descendants[:row], shown.features[job])
    shown.size[job, 0] = row
    shown.size[job, 1] = count


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
    out[0] = kind == 0
    out[1] = kind == 1
    out[2] = 0.0
    out[3] = ready
    out[4] = tasks - stages["started_tasks"][stage]
    out[5] = stages["started_tasks"][stage] - completed
    out[6] = completed
    out[7] = stages["prompt_tokens"][stage] if ready else 0
    out[9] = out[11] = out[12] = 0.0
    demand_s[:] = 0.0
    canonical = stages["canonical"][stage]
    if canonical >= 0:
        belief = canonical - base
        left = (tasks - completed) / tasks
        out[9] = believed["presence"][belief]
        out[11] = believed["entropy_bits"][belief]
        out[12] = believed["reduction"][belief] if ready else 0.0
        demand_s[kind] = believed["demand_s"][belief] * left


@inlined
def _read_placeholder(templates, believed, base, revealer, out, demand_s):
    out[0] = out[1] = 0.0
    out[2] = 1.0
    out[3:8] = 0.0
    out[9] = out[11] = out[12] = 0.0
    demand_s[:] = 0.0
    for k in range(templates.reveals_of[revealer], templates.reveals_of[revealer + 1]):
        hidden = templates.reveals[k]
        out[9] += believed["presence"][hidden - base]
        out[11] += believed["entropy_bits"][hidden - base]
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
            source = state.parents[k]
            while not stages["visible"][source]:
                source = stages["revealed_by"][source]
            if not _complete(stages, source):
                count = _add_edge(edges, since, count, shown.of_stage[source], row)
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
        features[row, 8] = total


# --- The observation ------------------------------------------------------------------------------


@inlined
def _write_job(state, belief, slowdown, job, waiting, out):
    jobs, now = state.jobs, state.clock["now"][0]
    used = jobs["attained"][job]
    used += jobs["running_tasks"][job] * (now - jobs["attained_until"][job])
    out[0] = jobs["application"][job]
    out[1] = (now - jobs["arrival"][job]) / TICKS_PER_SECOND
    out[2] = waiting
    out[3] = jobs["running_tasks"][job]
    out[4] = jobs["completed_tasks"][job]
    out[5] = used / TICKS_PER_SECOND
    out[6] = belief["prior_llm_s"] + belief["prior_regular_s"]
    out[7] = belief["llm_s"] * slowdown + belief["regular_s"]
    out[8] = _std(belief, slowdown)
    out[9] = belief["low_llm_s"] * slowdown + belief["low_regular_s"]
    out[10] = belief["high_llm_s"] * slowdown + belief["high_regular_s"]
    out[11] = belief["llm_s"] * slowdown
    mean = belief["llm_s"] + belief["regular_s"]
    out[12] = belief["gittins_s"] * out[7] / mean if mean > 0.0 else 0.0


@inlined
def _write_cluster(state, shown, slowdown, out):
    clock = state.clock
    slots = state.sequences.size
    out[0] = clock["now"][0] / TICKS_PER_SECOND
    out[1] = clock["active"][0]
    out[2] = clock["active"][0] - shown
    out[3] = clock["num_jobs"][0] - clock["arrived"][0]
    out[4] = slots
    out[5] = slots - clock["llm_running"][0]
    out[6] = len(state.executors)
    out[7] = clock["regular_free"][0]
    out[8] = slowdown


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
        out.stages[row, 10] = demand_s[0] * slowdown + demand_s[1]
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
        if out.stages[row, 3] == 0.0 or out.stages[row, 4] == 0.0:
            continue  # not ready, or nothing waits
        stage = stages_shown[row]
        if stages["kind"][stage] == 1:
            out.action_mask[row] = regular
        else:
            task = stages["first_task"][stage] + stages["started_tasks"][stage]
            need = tasks["prompt_tokens"][task] + stages["output_limit"][stage]
            out.action_mask[row] = need <= room


def describe() -> str:
    """The tables of features in Markdown, as docs/observation.md prints them."""
    tables = (
        ("stages", "stage row", STAGE_FEATURES),
        ("jobs", "job row", JOB_FEATURES),
        ("cluster", "entry", CLUSTER_FEATURES),
    )
    lines: list[str] = []
    for name, row, features in tables:
        lines += [f"### `{name}`, per {row}", "", "| column | name | unit | meaning |"]
        lines.append("|---|---|---|---|")
        lines += [
            f"| {column} | `{feature.name}` | {feature.unit} | {feature.meaning} |"
            for column, feature in enumerate(features)
        ]
        lines.append("")
    return "\n".join(lines)
