"""What a running job shows, as evidence for the network of its application."""

from __future__ import annotations

from llmsched_gym.belief.networks import (
    ABSENT,
    COMPLETE,
    PRESENT,
    UNDETERMINED,
    UNKNOWN,
    FloatArray,
    Networks,
    Scratch,
    Table,
)
from llmsched_gym.belief.posteriors import forget
from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.compiled import kernel
from llmsched_gym.workload.template import TemplateTable


@kernel
def read_stages(
    state: ClusterState, templates: TemplateTable, net: Networks, scratch: Scratch, job: int
) -> int:
    """What is known of each canonical stage, and how much of it remains.

    Returns the number of visible stages that no past job had.
    """
    stages, work, known = state.stages, scratch.stages, net.stages
    base = templates.first[state.jobs[job]["application"]]
    for c in range(len(known)):
        work[c]["status"], work[c]["actual"], work[c]["left"] = ABSENT, -1, 0.0
    skipped = 0
    first = state.jobs[job]["first_stage"]
    for s in range(first, first + state.jobs[job]["num_stages"]):
        stage = stages[s]
        if stage["visible"] == 0:
            continue
        c = stage["canonical"] - base
        if c < 0:
            skipped += 1
            continue
        work[c]["actual"] = s
        if stage["kind"] != known[c]["kind"]:
            work[c]["status"] = UNKNOWN
            skipped += 1
        elif stage["completed_tasks"] == stage["num_tasks"]:
            work[c]["status"] = COMPLETE
        else:
            work[c]["status"] = PRESENT
            left = stage["num_tasks"] - stage["completed_tasks"]
            work[c]["left"] = left / stage["num_tasks"]
    _mark_undetermined(state, templates, scratch, len(known), base)
    return skipped


@kernel
def _mark_undetermined(
    state: ClusterState, templates: TemplateTable, scratch: Scratch, count: int, base: int
) -> None:
    """Hidden stages that a visible unfinished stage may still reveal, directly or in turn."""
    stages, work, stack = state.stages, scratch.stages, scratch.stack
    reveals_of, reveals = templates.reveals_of, templates.reveals
    for c in range(count):
        s = work[c]["actual"]
        if s < 0 or stages[s]["completed_tasks"] == stages[s]["num_tasks"]:
            continue
        stack[0] = c
        top = 1
        while top > 0:
            top -= 1
            revealer = base + stack[top]
            for k in range(reveals_of[revealer], reveals_of[revealer + 1]):
                other = reveals[k] - base
                if work[other]["actual"] < 0 and work[other]["status"] == ABSENT:
                    work[other]["status"], work[other]["left"] = UNDETERMINED, 1.0
                    stack[top] = other
                    top += 1


@kernel
def set_evidence(state: ClusterState, net: Networks, scratch: Scratch) -> int:
    """Turn what is known into evidence; returns how many values no past job had."""
    forget(net, scratch)
    stages, variables, bins = net.stages, net.variables, net.bins
    known, work, actual = scratch.stages, scratch.variables, state.stages
    means, squares = scratch.means, scratch.squares
    clamped = 0
    for c in range(len(stages)):
        status, s = known[c]["status"], known[c]["actual"]
        if status == UNDETERMINED or status == UNKNOWN:
            continue
        v, f, p = stages[c]["demand"], stages[c]["fanout"], stages[c]["prompt"]
        if status == ABSENT:
            work[v]["high"] = 0
        elif status == PRESENT:
            work[v]["low"] = 1
            know_tasks(bins[c], stages[c]["cells"], actual[s]["num_tasks"], means[c], squares[c])
        else:
            seconds = actual[s]["demand"] / TICKS_PER_SECOND
            k = _demand_bin(bins[c], variables[v]["states"], seconds)
            work[v]["low"] = work[v]["high"] = k
            clamped += seconds < bins[c, k]["least_s"] and k == 1
            clamped += seconds > bins[c, k]["most_s"] and k == variables[v]["states"] - 1
        if f >= 0:
            k = 0
            if status != ABSENT:
                tasks = actual[s]["num_tasks"]
                k = _fanout_bin(bins[c], variables[f]["states"], tasks)
                clamped += tasks < bins[c, k]["least_tasks"] or tasks > bins[c, k]["most_tasks"]
            work[f]["low"] = work[f]["high"] = k
        if p >= 0:
            k = 0
            if status != ABSENT and actual[s]["unfinished_parents"] > 0:
                work[p]["low"] = 1  # there will be one
                continue
            if status != ABSENT:
                tokens = actual[s]["prompt_tokens"] / actual[s]["num_tasks"]
                k = _prompt_bin(bins[c], variables[p]["states"], tokens)
                clamped += tokens < bins[c, k]["least_tokens"] and k == 1
                clamped += tokens > bins[c, k]["most_tokens"] and k == variables[p]["states"] - 1
            work[p]["low"] = work[p]["high"] = k
    return clamped


@kernel
def know_tasks(bins: Table, cells: int, tasks: int, means: FloatArray, squares: FloatArray) -> None:
    """Moments of a stage's demand in each bin, its number of tasks being known."""
    for x in range(len(bins)):
        mean = bins[x]["mean_s"]
        if cells > 1 and bins[x]["tasks"] > 0.0:
            mean = min(max(mean * tasks / bins[x]["tasks"], bins[x]["least_s"]), bins[x]["most_s"])
        means[x] = mean
        squares[x] = mean * mean + bins[x]["variance"]


@kernel
def _demand_bin(bins: Table, states: int, seconds: float) -> int:
    """The state of a present demand: that of the nearest bin."""
    k = 1
    while k < states - 1 and seconds > (bins[k]["most_s"] + bins[k + 1]["least_s"]) / 2:
        k += 1
    return k


@kernel
def _fanout_bin(bins: Table, states: int, tasks: int) -> int:
    k = 1
    while k < states - 1 and tasks > (bins[k]["most_tasks"] + bins[k + 1]["least_tasks"]) / 2:
        k += 1
    return k


@kernel
def _prompt_bin(bins: Table, states: int, tokens: float) -> int:
    k = 1
    while k < states - 1 and tokens > (bins[k]["most_tokens"] + bins[k + 1]["least_tokens"]) / 2:
        k += 1
    return k
