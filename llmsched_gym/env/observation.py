"""What an agent sees: the spaces, the features and their units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from llmsched_gym.cluster.state import TICKS_PER_SECOND
from llmsched_gym.compiled import compiled


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


class Rows(NamedTuple):
    """Scratch of :func:`observe`: which row shows what.

    Attributes
    ----------
    stage : int64 [max_stages], the stage a row shows, -1 for a placeholder.
    of_stage : int64 [S], the row of a stage, only meaningful for shown stages.
    of_placeholder : int64 [S], the row of the placeholder hung on a stage, -1 if there is none.
    descendants : uint64 [rows of a job, words], bit sets over the rows of one job.
    """

    stage: NDArray[np.int64]
    of_stage: NDArray[np.int64]
    of_placeholder: NDArray[np.int64]
    descendants: NDArray[np.uint64]


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


def empty_observation(max_stages: int, max_edges: int, max_jobs: int) -> Observation:
    """All zeros; large arrays cost nothing until their rows are written."""
    return Observation(
        np.zeros((max_stages, len(STAGE_FEATURES)), np.float32),
        np.zeros(max_stages, np.int32),
        np.zeros(max_stages, np.int8),
        np.zeros((max_edges, 2), np.int32),
        np.zeros(max_edges, np.int8),
        np.zeros((max_jobs, len(JOB_FEATURES)), np.float32),
        np.zeros(max_jobs, np.int8),
        np.zeros(len(CLUSTER_FEATURES), np.float32),
        np.zeros(max_stages + 1, np.int8),
    )


def new_rows(max_stages: int, num_stages: int, rows_of_a_job: int) -> Rows:
    """Scratch for an episode with ``num_stages`` stages in all."""
    return Rows(
        np.full(max_stages, -1, np.int64),
        np.zeros(num_stages, np.int64),
        np.full(num_stages, -1, np.int64),
        np.zeros((rows_of_a_job, (rows_of_a_job + 63) // 64), np.uint64),
    )


@compiled
def _lay_out(state, templates, rows, max_rows, max_jobs):
    """Give every shown stage and placeholder its row; returns (jobs shown, rows used)."""
    stages, jobs = state.stages, state.jobs
    row = 0
    shown = 0
    while shown < state.clock["active"][0] and shown < max_jobs:
        job = state.active[shown]
        first_row = row
        first = jobs["first_stage"][job]
        for stage in range(first, first + jobs["num_stages"][job]):
            if not stages["visible"][stage] or _complete(stages, stage):
                continue
            placeholder = _may_reveal(templates, stages["canonical"][stage])
            if row + 1 + placeholder > max_rows:
                return shown, first_row  # a job is shown whole or not at all
            rows.stage[row] = stage
            rows.of_stage[stage] = row
            rows.of_placeholder[stage] = -1
            row += 1
            if placeholder:
                rows.stage[row] = -1
                rows.of_placeholder[stage] = row
                row += 1
        shown += 1
    return shown, row


@compiled
def _complete(stages, stage):
    return stages["completed_tasks"][stage] == stages["num_tasks"][stage]


@compiled
def _may_reveal(templates, canonical):
    return canonical >= 0 and templates.reveals_of[canonical] < templates.reveals_of[canonical + 1]


@compiled
def _write_stage(stages, believed, base, slowdown, stage, out):
    kind = stages["kind"][stage]
    tasks = stages["num_tasks"][stage]
    completed = stages["completed_tasks"][stage]
    ready = stages["unfinished_parents"][stage] == 0
    out[0] = kind == 0
    out[1] = kind == 1
    out[3] = ready
    out[4] = tasks - stages["started_tasks"][stage]
    out[5] = stages["started_tasks"][stage] - completed
    out[6] = completed
    out[7] = stages["prompt_tokens"][stage] if ready else 0
    canonical = stages["canonical"][stage]
    if canonical >= 0:
        belief = canonical - base
        scale = slowdown if kind == 0 else 1.0
        left = (tasks - completed) / tasks
        out[9] = believed["presence"][belief]
        out[10] = believed["demand_s"][belief] * left * scale
        out[11] = believed["entropy_bits"][belief]
        out[12] = believed["reduction"][belief] if ready else 0.0


@compiled
def _write_placeholder(templates, believed, base, slowdown, revealer, out):
    out[2] = 1.0
    for k in range(templates.reveals_of[revealer], templates.reveals_of[revealer + 1]):
        hidden = templates.reveals[k]
        scale = slowdown if templates.kind[hidden] == 0 else 1.0
        out[9] += believed["presence"][hidden - base]
        out[10] += believed["demand_s"][hidden - base] * scale
        out[11] += believed["entropy_bits"][hidden - base]


@compiled
def _add_edge(edges, edge_mask, since, count, source, target):
    """Append an edge unless it is there already, among those from number ``since`` on."""
    for k in range(since, count):
        if edges[k, 0] == source and edges[k, 1] == target:
            return count
    if count == len(edges):
        return count
    edges[count, 0] = source
    edges[count, 1] = target
    edge_mask[count] = 1
    return count + 1


@compiled
def _write_edges(state, templates, rows, first_row, last_row, count, edges, edge_mask):
    """The edges of one job's rows, ordered by target row; returns the number of edges so far."""
    stages = state.stages
    for row in range(first_row, last_row):
        stage = rows.stage[row]
        if stage < 0:
            count = _add_edge(edges, edge_mask, count, count, row - 1, row)
            continue
        since = count
        for k in range(state.parents_of[stage], state.parents_of[stage + 1]):
            source = state.parents[k]
            while not stages["visible"][source]:
                source = stages["revealed_by"][source]
            if not _complete(stages, source):
                count = _add_edge(edges, edge_mask, since, count, rows.of_stage[source], row)
        canonical = stages["canonical"][stage]
        if canonical < 0:
            continue
        for k in range(templates.awaits_of[canonical], templates.awaits_of[canonical + 1]):
            for other in range(first_row, row):
                revealer = rows.stage[other]
                if revealer >= 0 and stages["canonical"][revealer] == templates.awaits[k]:
                    source = rows.of_placeholder[revealer]
                    if source >= 0:
                        count = _add_edge(edges, edge_mask, since, count, source, row)
    return count


@compiled
def _write_descendants(rows, edges, first_edge, last_edge, first_row, last_row, out):
    """Count the rows below each row: one backward sweep, for edges are ordered by target."""
    sets = rows.descendants
    sets[: last_row - first_row] = 0
    for k in range(last_edge - 1, first_edge - 1, -1):
        source, target = edges[k, 0] - first_row, edges[k, 1] - first_row
        for word in range(sets.shape[1]):
            sets[source, word] |= sets[target, word]
        sets[source, target >> 6] |= np.uint64(1) << np.uint64(target & 63)
    for row in range(first_row, last_row):
        total = 0
        for word in range(sets.shape[1]):
            bits = sets[row - first_row, word]
            while bits:
                bits &= bits - np.uint64(1)
                total += 1
        out[row, 8] = total


@compiled
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


@compiled
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


@compiled
def _std(belief, slowdown):
    variance = belief["variance_llm"] * slowdown**2 + belief["variance_regular"]
    return np.sqrt(max(variance + 2.0 * belief["covariance"] * slowdown, 0.0))


@compiled
def observe(state, templates, stage_beliefs, job_beliefs, rows, asked, out):
    """Write the observation of a cluster into ``out``, an :func:`empty_observation`.

    ``rows.stage`` then tells which stage each row shows. ``asked`` is whether a decision is due:
    at the end of an episode only waiting is legal. Returns the number of rows in use.
    """
    slowdown = state.clock["slowdown"][0]
    max_rows, max_jobs = len(out.stage_mask), len(out.job_mask)
    shown, used = _lay_out(state, templates, rows, max_rows, max_jobs)
    stages, jobs = state.stages, state.jobs
    edge = 0
    row = 0
    for position in range(shown):
        job = state.active[position]
        base = templates.first[jobs["application"][job]]
        believed = stage_beliefs[job]
        first_row = row
        waiting = 0
        while row < used and (rows.stage[row] < 0 or stages["job"][rows.stage[row]] == job):
            stage = rows.stage[row]
            out.stage_job[row] = position
            out.stage_mask[row] = 1
            if stage >= 0:
                _write_stage(stages, believed, base, slowdown, stage, out.stages[row])
                if stages["unfinished_parents"][stage] == 0:
                    waiting += stages["num_tasks"][stage] - stages["started_tasks"][stage]
            else:
                revealer = stages["canonical"][rows.stage[row - 1]]
                _write_placeholder(templates, believed, base, slowdown, revealer, out.stages[row])
            row += 1
        first_edge = edge
        edge = _write_edges(state, templates, rows, first_row, row, edge, out.edges, out.edge_mask)
        _write_descendants(rows, out.edges, first_edge, edge, first_row, row, out.stages)
        _write_job(state, job_beliefs[job], slowdown, job, waiting, out.jobs[position])
        out.job_mask[position] = 1
    _write_cluster(state, shown, slowdown, out.cluster)
    if asked:
        _write_legal(state, rows.stage[:used], out.action_mask)
    out.action_mask[-1] = not asked or state.clock["can_wait"][0]
    return used


@compiled
def _write_legal(state, row_stages, mask):
    """Which rows the simulator's ``can_run`` allows, without asking it row by row."""
    stages, tasks = state.stages, state.tasks
    regular, room = state.clock["regular_free"][0] > 0, state.clock["room"][0]
    for row in range(len(row_stages)):
        stage = row_stages[row]
        if stage < 0 or stages["ready_slot"][stage] < 0:
            continue
        if stages["kind"][stage] == 1:
            mask[row] = regular
        else:
            task = stages["first_task"][stage] + stages["started_tasks"][stage]
            mask[row] = tasks["prompt_tokens"][task] + stages["output_limit"][stage] <= room


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
