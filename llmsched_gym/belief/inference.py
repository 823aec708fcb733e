"""What is believed of running jobs: fitted networks made ready, and beliefs brought up to date.

Times are in seconds at batch size 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmsched_gym.belief.evidence import read_stages, set_evidence
from llmsched_gym.belief.gittins import gittins_index
from llmsched_gym.belief.networks import (
    ABSENT,
    BAYES,
    GITTINS,
    NONE,
    ORACLE,
    PRESENT,
    PRIOR,
    REDUCTION,
    UNDETERMINED,
    Beliefs,
    Networks,
    Scratch,
    Table,
    flatten,
    new_scratch,
    select,
)
from llmsched_gym.belief.posteriors import (
    collect,
    collect_moments,
    describe,
    distribute,
    fill_prior,
    forget,
    guess_tasks,
    settled,
    trace,
)
from llmsched_gym.belief.profile import BeliefProfile
from llmsched_gym.belief.uncertainty import uncertainty_reduction
from llmsched_gym.belief.work import WorkRates
from llmsched_gym.cluster.state import EVIDENCE, STARTED, ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.compiled import kernel
from llmsched_gym.workload.template import TemplateTable


def compile_profile(
    profile: BeliefProfile,
    applications: Sequence[str],
    rates: Mapping[str, WorkRates] | None = None,
) -> Networks:
    """Flat tables of the networks of the given applications, in that order.

    Stages are numbered like those of ``template_table(applications, profile.templates)``. An
    application without past jobs has none; its jobs are judged by the tasks of all applications.

    ``rates`` say how much work there is in a second of demand
    (:func:`~llmsched_gym.belief.work.work_rates`); without them, as with one sequence an engine,
    work is demand.
    """
    networks = flatten(profile, applications, rates)
    scratch = new_scratch(networks)
    for application, name in enumerate(applications):
        if name in profile.networks:
            net = select(networks, application)
            fill_prior(net, scratch)
            for kind in (0, 1):
                mine = net.stages["kind"] == kind
                prior, tasks = net.prior[mine, 0], networks.tasks[application, kind]
                tasks["job_s"] = prior["demand_s"].sum()
                tasks["job_work_s"] = prior["work_s"].sum()
    return networks


# --- Updating -------------------------------------------------------------------------------------


@kernel
def update(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    mode: int,
    wanted: int,
) -> None:
    """Update the beliefs about every job in ``state.changed``.

    Parameters
    ----------
    state : of the cluster. What is hidden in it is read in mode ``ORACLE`` only.
    templates, networks : in the order of the bank's applications.
    beliefs : written. A job's stage rows are computed when evidence came, its sums always.
    mode : ``NONE``, ``PRIOR``, ``BAYES`` or ``ORACLE``.
    wanted : ``GITTINS``, ``REDUCTION``, their sum or 0. What is not wanted stays as it is, 0.
    """
    if mode == NONE:
        return
    for k in range(state.clock[0]["changed"]):
        job = state.changed[k]
        if state.jobs[job]["changed"] == STARTED:
            continue  # nothing is learnt from that
        if mode == ORACLE:
            _reveal_truth(state, templates, beliefs, job, wanted)
        else:
            _update_job(state, templates, networks, beliefs, job, mode, wanted)


@kernel
def _update_job(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    job: int,
    mode: int,
    wanted: int,
) -> None:
    application = state.jobs[job]["application"]
    net, scratch = select(networks, application), beliefs.scratch
    row, stages = beliefs.jobs[job], beliefs.stages[job]
    evidence = state.jobs[job]["changed"] == EVIDENCE
    row["skipped"] = read_stages(state, templates, net, scratch, job)
    row["prior_llm_s"] = networks.tasks[application, 0]["job_s"]
    row["prior_regular_s"] = networks.tasks[application, 1]["job_s"]
    row["prior_work_llm_s"] = networks.tasks[application, 0]["job_work_s"]
    if mode == BAYES:
        row["clamped"] = set_evidence(state, net, scratch)
        trace(net, scratch)
        collect(net, scratch)
        collect_moments(net, scratch)
        if evidence:
            distribute(net, scratch)
            _describe_stages(net, scratch, stages)
    elif evidence:
        _recall_prior(net, scratch, stages)
    if evidence and wanted & REDUCTION:
        base = templates.first[application]
        _reduce_ready(state, templates, net, scratch, stages, base, mode)
    _sum_stages(net, scratch, stages, row)
    if mode == BAYES:
        _add_moments(net, scratch, row)
    else:
        _add_prior_variances(net, scratch, row)
    if row["skipped"] > 0:
        _add_skipped(state, networks.tasks[application], net, templates, row, job)
    if wanted & GITTINS:
        row["gittins_s"] = gittins_index(net, scratch, row, stages, mode)


@kernel
def _describe_stages(net: Networks, scratch: Scratch, out: Table) -> None:
    stages, bins, settings, variables = net.stages, net.bins, net.settings[0], net.variables
    known, marginal = scratch.stages, scratch.marginal
    means, squares = scratch.means, scratch.squares
    for c in range(len(stages)):
        if known[c]["status"] <= PRESENT:
            if known[c]["status"] == UNDETERMINED:
                guess_tasks(net, scratch, c)
            v = stages[c]["demand"]
            probability = marginal[v, : variables[v]["states"]]
            describe(bins[c], means[c], squares[c], probability, settings, out[c])
        else:
            _settle(out[c], known[c]["status"])
        out[c]["reduction"] = 0.0


@kernel
def _recall_prior(net: Networks, scratch: Scratch, out: Table) -> None:
    known = scratch.stages
    for c in range(len(net.stages)):
        status = known[c]["status"]
        if status <= PRESENT:
            prior = net.prior[c, status]
            out[c]["presence"], out[c]["demand_s"] = prior["presence"], prior["demand_s"]
            out[c]["work_s"] = prior["work_s"]
            out[c]["entropy_bits"] = prior["entropy_bits"]
            out[c]["low_s"], out[c]["high_s"] = prior["low_s"], prior["high_s"]
        else:
            _settle(out[c], status)
        out[c]["reduction"] = 0.0


@kernel
def _settle(out: Table, status: int) -> None:
    """Of a stage that is complete, absent or unknown to the network nothing remains."""
    out["presence"] = 0.0 if status == ABSENT else 1.0
    out["demand_s"] = out["work_s"] = out["entropy_bits"] = out["low_s"] = out["high_s"] = 0.0


@kernel
def _reduce_ready(
    state: ClusterState,
    templates: TemplateTable,
    net: Networks,
    scratch: Scratch,
    out: Table,
    base: int,
    mode: int,
) -> None:
    for c in range(len(net.stages)):
        work = scratch.stages[c]
        if work["status"] != PRESENT or state.stages[work["actual"]]["unfinished_parents"] > 0:
            continue
        if mode == PRIOR:  # all that is believed is that this stage is present
            forget(net, scratch)
            scratch.variables[net.stages[c]["demand"]]["low"] = 1
            if net.stages[c]["fanout"] >= 0:
                scratch.variables[net.stages[c]["fanout"]]["low"] = 1
            trace(net, scratch)
            collect(net, scratch)
            distribute(net, scratch)
        out[c]["reduction"] = uncertainty_reduction(templates, net, scratch, out, base, c)


@kernel
def _sum_stages(net: Networks, scratch: Scratch, stages: Table, row: Table) -> None:
    """Means and intervals of what remains of a job, without variances."""
    row["work_llm_s"] = 0.0
    row["llm_s"] = row["low_llm_s"] = row["high_llm_s"] = 0.0
    row["regular_s"] = row["low_regular_s"] = row["high_regular_s"] = 0.0
    row["variance_llm"] = row["covariance"] = row["variance_regular"] = 0.0
    known, of_network = scratch.stages, net.stages
    for c in range(len(of_network)):
        left = known[c]["left"]
        if left > 0.0:
            mean = left * stages[c]["demand_s"]
            low, high = left * stages[c]["low_s"], left * stages[c]["high_s"]
            _add_demand(row, of_network[c]["kind"], mean, low, high, 0.0)
            if of_network[c]["kind"] == 0:
                row["work_llm_s"] += left * stages[c]["work_s"]


@kernel
def _add_demand(
    row: Table, kind: int, mean: float, low: float, high: float, variance: float
) -> None:
    if kind == 0:
        row["llm_s"] += mean
        row["low_llm_s"] += low
        row["high_llm_s"] += high
        row["variance_llm"] += variance
    else:
        row["regular_s"] += mean
        row["low_regular_s"] += low
        row["high_regular_s"] += high
        row["variance_regular"] += variance


@kernel
def _add_moments(net: Networks, scratch: Scratch, row: Table) -> None:
    """Variances of what remains: the trees that the evidence leaves are independent."""
    variables, static, stages = net.variables, net.moments, net.stages
    known, work, moments, rows = scratch.stages, scratch.variables, scratch.moments, scratch.rows
    for v in range(len(variables)):
        if work[v]["root"] == 0:
            continue
        if settled(work[v]):
            c = variables[v]["stage"]
            if c >= 0 and known[c]["left"] > 0.0:  # present, and all its demand is in one bin
                spread = net.bins[c, work[v]["low"]]["variance"]
                variance = known[c]["left"] * known[c]["left"] * spread
                _add_demand(row, stages[c]["kind"], 0.0, 0.0, 0.0, variance)
            continue
        at = variables[v]["row"] + rows[variables[v]["row"]]
        if work[v]["dirty"] == 1:
            llm, both, regular = moments[at, 2], moments[at, 3], moments[at, 4]
        else:
            llm, both, regular = static[at, 2], static[at, 3], static[at, 4]
        row["variance_llm"] += max(0.0, llm)
        row["covariance"] += both
        row["variance_regular"] += max(0.0, regular)


@kernel
def _add_prior_variances(net: Networks, scratch: Scratch, row: Table) -> None:
    """Without evidence the stages are taken as independent."""
    for c in range(len(net.stages)):
        work, own = scratch.stages[c], net.stages[c]
        if work["left"] > 0.0:
            of_stage = own["variance_present"] if work["status"] == PRESENT else own["variance"]
            variance = work["left"] * work["left"] * of_stage
            _add_demand(row, own["kind"], 0.0, 0.0, 0.0, variance)


@kernel
def _add_skipped(
    state: ClusterState,
    tasks: Table,
    net: Networks,
    templates: TemplateTable,
    row: Table,
    job: int,
) -> None:
    """Visible unfinished stages that no past job had count as so many average tasks."""
    base = templates.first[state.jobs[job]["application"]]
    first = state.jobs[job]["first_stage"]
    for s in range(first, first + state.jobs[job]["num_stages"]):
        stage = state.stages[s]
        c, kind = stage["canonical"] - base, stage["kind"]
        if stage["visible"] == 0 or (c >= 0 and net.stages[c]["kind"] == kind):
            continue
        left = stage["num_tasks"] - stage["completed_tasks"]
        task = tasks[kind]
        mean, low, high = left * task["mean_s"], left * task["low_s"], left * task["high_s"]
        _add_demand(row, kind, mean, low, high, left * task["variance"])
        if kind == 0:
            row["work_llm_s"] += mean * task["work"]


@kernel
def _reveal_truth(
    state: ClusterState, templates: TemplateTable, beliefs: Beliefs, job: int, wanted: int
) -> None:
    """What really remains of a job, without uncertainty: the clairvoyant belief."""
    base = templates.first[state.jobs[job]["application"]]
    row, out = beliefs.jobs[job], beliefs.stages[job]
    for c in range(len(out)):
        _settle(out[c], ABSENT)
        out[c]["reduction"] = 0.0
    row["prior_llm_s"] = row["prior_regular_s"] = row["llm_s"] = row["regular_s"] = 0.0
    row["prior_work_llm_s"] = row["work_llm_s"] = 0.0
    row["variance_llm"] = row["covariance"] = row["variance_regular"] = 0.0
    row["skipped"] = row["clamped"] = 0
    first = state.jobs[job]["first_stage"]
    for s in range(first, first + state.jobs[job]["num_stages"]):
        stage = state.stages[s]
        left = work = work_left = 0.0
        for t in range(stage["first_task"], stage["first_task"] + stage["num_tasks"]):
            end, of_task = state.tasks[t]["end"], state.tasks[t]["work"] / TICKS_PER_SECOND
            work += of_task
            if end < 0 or end > state.clock[0]["now"]:
                left += state.tasks[t]["demand"] / TICKS_PER_SECOND
                work_left += of_task
        whole = stage["demand"] / TICKS_PER_SECOND
        if stage["kind"] == 0:
            row["prior_llm_s"] += whole
            row["llm_s"] += left
            row["prior_work_llm_s"] += work
            row["work_llm_s"] += work_left
        else:
            row["prior_regular_s"] += whole
            row["regular_s"] += left
        c = stage["canonical"] - base
        if c >= 0:
            out[c]["presence"] = 1.0
            if left > 0.0:
                out[c]["demand_s"] = out[c]["low_s"] = out[c]["high_s"] = whole
                out[c]["work_s"] = work
    row["low_llm_s"] = row["high_llm_s"] = row["llm_s"]
    row["low_regular_s"] = row["high_regular_s"] = row["regular_s"]
    if wanted & GITTINS:
        row["gittins_s"] = row["llm_s"] + row["regular_s"]
