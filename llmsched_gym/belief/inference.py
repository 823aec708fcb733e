"""The fitted networks compiled to flat tables, and exact posteriors from them in microseconds.

Variables are eliminated from the last to the first (in topological order). Variable v then owns a
*bucket*: itself and its *separator*, the earlier variables it is still joined with. The network is
the product of ``P(v | separator)`` over the buckets, which hang on each other in a tree (the bucket
of v on that of the last variable of its separator). One pass up this tree multiplies the evidence
in, one pass down it reads the posteriors off. A variable without evidence in or below its bucket
keeps its static table, and where evidence fixes a whole separator the tree falls apart: only the
part of a job that is still uncertain costs time.

Evidence is an interval of states per variable: absent is [0, 0], present [1, K], a value [k, k].
Entropies and mutual information are in bits, times in seconds at batch size 1.

All kernels live in this module, because numba's cache does not notice an edited callee elsewhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.belief.profile import BeliefProfile, Network
from llmsched_gym.cluster.state import EVIDENCE, TICKS_PER_SECOND, ClusterState
from llmsched_gym.compiled import compiled
from llmsched_gym.workload.template import Template, TemplateTable

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Table = NDArray[np.void]

NONE, PRIOR, BAYES, ORACLE = 0, 1, 2, 3

BELIEF_STAGE = np.dtype(
    [
        ("presence", np.float64),  # probability that the stage exists
        ("demand_s", np.float64),  # mean of its whole demand; absent counts 0, complete is 0
        ("entropy_bits", np.float64),  # of its demand variable, "absent" included
        ("low_s", np.float64),  # quantiles of its whole demand
        ("high_s", np.float64),
        ("reduction", np.float64),  # R, bit s; 0 unless the stage is ready
    ]
)

BELIEF_JOB = np.dtype(
    [
        ("prior_llm_s", np.float64),  # mean demand of a whole job, before any evidence
        ("prior_regular_s", np.float64),
        ("llm_s", np.float64),  # E[rem], what remains
        ("regular_s", np.float64),
        ("variance_llm", np.float64),  # of what remains, s^2
        ("covariance", np.float64),  # of its LLM part with its regular part, s^2
        ("variance_regular", np.float64),
        ("low_llm_s", np.float64),  # sums over the unfinished stages' quantiles
        ("low_regular_s", np.float64),
        ("high_llm_s", np.float64),
        ("high_regular_s", np.float64),
        ("skipped", np.int64),  # visible stages that no past job had
        ("clamped", np.int64),  # values that no past job had, taken as the nearest
    ]
)

SETTINGS = np.dtype(
    [
        ("low", np.float64),  # the quantiles
        ("high", np.float64),
        ("reachable", np.int64),  # M
        ("structural", np.int64),  # 1: the uncertainty reduction counts what a stage reveals
    ]
)

# Where an application's part of each table begins.
APPLICATION = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("stages", "variables", "rows", "entries"),
            *("separators", "children", "up", "reach"),
        )
    ]
)

TASKS = np.dtype(
    [
        ("mean_s", np.float64),  # of one task
        ("variance", np.float64),
        ("low_s", np.float64),
        ("high_s", np.float64),
        ("job_s", np.float64),  # of all tasks of a job, before any evidence
    ]
)

NETWORK_STAGE = np.dtype(
    [
        ("kind", np.int64),
        ("demand", np.int64),  # variable
        ("fanout", np.int64),  # variable, -1 if none
        ("reach", np.int64),  # its part of the list of reachable stages
        ("end_reach", np.int64),
        ("variance", np.float64),  # of its demand before any evidence, s^2
        ("variance_present", np.float64),  # given presence alone
    ]
)

BIN = np.dtype(
    [
        ("least_s", np.float64),  # of the demand
        ("mean_s", np.float64),
        ("most_s", np.float64),
        ("variance", np.float64),
        ("shape", np.float64),  # exponent of the quantile function inside the bin
        ("least_tasks", np.float64),  # of the fan-out
        ("most_tasks", np.float64),
    ]
)

VARIABLE = np.dtype(
    [
        ("states", np.int64),
        ("stage", np.int64),  # whose demand it is, -1 for a fan-out
        ("parent", np.int64),  # the bucket it hangs on, -1 for a root
        ("row", np.int64),  # first row of its bucket: a row is a state of the separator
        ("num_rows", np.int64),
        ("entry", np.int64),  # first entry of its bucket: a row and a state of the variable
        ("separator", np.int64),
        ("end_separator", np.int64),
        ("child", np.int64),  # buckets that hang on this one
        ("end_child", np.int64),
        ("up", np.int64),  # from the parent's entries to the rows of this bucket
    ]
)

SEPARATOR = np.dtype([("variable", np.int64), ("stride", np.int64)])

STAGE_STATE = np.dtype(
    [
        ("status", np.int64),  # UNDETERMINED, ...
        ("actual", np.int64),  # the job's stage, -1 if hidden
        ("left", np.float64),  # part of the demand that remains
    ]
)

VARIABLE_STATE = np.dtype(
    [
        ("low", np.int64),  # evidence
        ("high", np.int64),
        ("dirty", np.int64),  # 1: evidence in or below the bucket
        ("root", np.int64),  # the bucket's row if evidence fixes the separator, else -1
        ("component", np.int64),  # the root of the tree it is in
        ("mark", np.int64),  # 1: between the variables of a question, 2: one of them
        ("asked", np.int64),  # how many of them are in or below the bucket
        ("size", np.int64),  # how many states they have together
        ("axis", np.int64),  # stride of the states of the one asked about
        ("message", np.int64),  # where the bucket's message begins
    ]
)

UNDETERMINED, PRESENT, COMPLETE, ABSENT, UNKNOWN = 0, 1, 2, 3, 4

MESSAGES = 1 << 18  # floats for the messages of one mutual information


class Networks(NamedTuple):
    """Compiled networks of A applications, with C stages and V variables in all.

    Numbers of stages, variables, rows and so on count from the application's first.
    """

    settings: Table  # SETTINGS [1]
    applications: Table  # APPLICATION [A + 1]
    tasks: Table  # TASKS [A, 2 kinds], for stages that no past job had
    stages: Table  # NETWORK_STAGE [C]
    prior: Table  # BELIEF_STAGE [C, 2]: before any evidence, given presence alone
    bins: Table  # BIN [C, most states]
    variables: Table  # VARIABLE [V]
    table: FloatArray  # [entries] P(variable | separator) without evidence below
    moments: FloatArray  # [rows, 5] of the demand in and below a bucket, without evidence
    separators: Table  # SEPARATOR
    children: IntArray
    up: IntArray
    reach: IntArray


class Scratch(NamedTuple):
    """Working space for one application at a time; one per thread."""

    stages: Table  # STAGE_STATE
    variables: Table  # VARIABLE_STATE
    conditional: FloatArray  # [entries] P(variable | separator, evidence below)
    joint: FloatArray  # [entries] P(variable, separator | evidence)
    likelihood: FloatArray  # [rows] P(evidence in and below | separator), scaled
    weight: FloatArray  # [rows] P(separator | evidence)
    moments: FloatArray  # [rows, 5] of what remains in and below the bucket
    marginal: FloatArray  # [variables, most states]
    stack: IntArray
    below: IntArray
    messages: FloatArray
    product: FloatArray


class Beliefs(NamedTuple):
    """What is believed of every job."""

    stages: Table  # BELIEF_STAGE [jobs, most canonical stages of an application]
    jobs: Table  # BELIEF_JOB [jobs]
    scratch: Scratch


# --- Compiling a profile ----------------------------------------------------------------------


def compile_profile(profile: BeliefProfile, applications: Sequence[str]) -> Networks:
    """Flat tables of the networks of the given applications, in that order.

    Stages are numbered like those of ``template_table(applications, profile.templates)``. An
    application without past jobs has none; its jobs are judged by the tasks of all applications.
    """
    settings = profile.settings
    parts = [
        _compile(profile.networks[name], profile.templates[name])
        for name in applications
        if name in profile.networks
    ]
    width = max((part["variables"]["states"].max() for part in parts), default=1)
    starts = np.zeros(len(applications) + 1, APPLICATION)
    known = np.array([name in profile.networks for name in applications], bool)
    for field in APPLICATION.names or ():
        lengths = np.zeros(len(applications), np.int64)
        lengths[known] = [len(part[field]) for part in parts]
        starts[field][1:] = np.cumsum(lengths)

    def joined(field: str, empty: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.concatenate([part[field] for part in parts] or [empty]))

    bins = np.zeros((int(starts["stages"][-1]), width), BIN)
    for row, (demand, tasks) in zip(
        bins, (pair for part in parts for pair in part["bins"]), strict=True
    ):
        _fill_bins(row, demand, tasks)
    networks = Networks(
        settings=np.array(
            [(settings.low, settings.high, settings.reachable, settings.structural)], SETTINGS
        ),
        applications=starts,
        tasks=np.zeros((len(applications), 2), TASKS),
        stages=joined("stages", np.zeros(0, NETWORK_STAGE)),
        prior=np.zeros((len(bins), 2), BELIEF_STAGE),
        bins=bins,
        variables=joined("variables", np.zeros(0, VARIABLE)),
        table=joined("entries", np.zeros(0)),
        moments=joined("rows", np.zeros((0, 5))),
        separators=joined("separators", np.zeros(0, SEPARATOR)),
        children=joined("children", np.zeros(0, np.int64)),
        up=joined("up", np.zeros(0, np.int64)),
        reach=joined("reach", np.zeros(0, np.int64)),
    )
    scratch = new_beliefs(0, networks).scratch
    for application, name in enumerate(applications):
        row = networks.tasks[application]
        tasks = profile.tasks.get(name, profile.tasks[""])
        row["mean_s"], row["variance"] = tasks.mean, tasks.variance
        row["low_s"], row["high_s"], row["job_s"] = tasks.low, tasks.high, tasks.per_job
        if known[application]:
            net = _select(networks, application)
            _fill_prior(net, scratch)
            for kind in (0, 1):
                mine = net.stages["kind"] == kind
                row["job_s"][kind] = net.prior["demand_s"][mine, 0].sum()
    return networks


def _fill_bins(row: Table, demand: Any, tasks: Any) -> None:
    states = slice(0, len(demand))
    row["least_s"][states], row["mean_s"][states] = demand.least, demand.mean
    row["most_s"][states], row["variance"][states] = demand.most, demand.variance
    spread = demand.mean - demand.least > 1e-12 * np.maximum(demand.most, 1e-300)
    above = np.where(spread, demand.mean - demand.least, 1.0)
    row["shape"][states] = np.where(spread, (demand.most - demand.mean) / above, 1.0)
    states = slice(0, len(tasks))
    row["least_tasks"][states], row["most_tasks"][states] = tasks.least, tasks.most


def _compile(network: Network, template: Template) -> dict[str, Any]:
    """One application's part of every table."""
    states = network.states
    separators = separators_of(network.parents)
    parents = [max(row, default=-1) for row in separators]
    shapes = [tuple(states[other] for other in row) for row in separators]
    strides = [_strides(shape) for shape in shapes]
    tables = [_expanded(network, v, row) for v, row in enumerate(separators)]
    children: list[list[int]] = [[] for _ in states]
    maps: list[IntArray] = []
    for v, p in enumerate(parents):
        if p < 0:
            maps.append(np.zeros(0, np.int64))
        else:
            children[p].append(v)
            above = (*separators[p], p)
            maps.append(_row_map(separators[v], strides[v], above, (*shapes[p], states[p])))
    stage_of = np.full(len(states), -1, np.int64)
    stage_of[network.demand] = np.arange(len(network.demand))
    reach = [_reachable(network, stage) for stage in range(len(network.demand))]

    stages = np.zeros(len(network.demand), NETWORK_STAGE)
    stages["kind"] = template.kinds
    stages["demand"], stages["fanout"] = network.demand, network.fanout
    stages["reach"], stages["end_reach"] = _ranges(reach)
    variables = np.zeros(len(states), VARIABLE)
    variables["states"], variables["stage"], variables["parent"] = states, stage_of, parents
    variables["num_rows"] = [len(table) for table in tables]
    variables["row"] = _ranges(tables)[0]
    variables["entry"] = _ranges([table.ravel() for table in tables])[0]
    variables["separator"], variables["end_separator"] = _ranges(separators)
    variables["child"], variables["end_child"] = _ranges(children)
    variables["up"] = _ranges(maps)[0]
    flat = np.zeros(sum(map(len, separators)), SEPARATOR)
    flat["variable"], flat["stride"] = _flat(separators), _flat(strides)
    return {
        "stages": stages,
        "variables": variables,
        "bins": list(zip(network.demand_bins, network.fanout_bins, strict=True)),
        "rows": _static_moments(network, template, stage_of, tables, children, maps),
        "entries": np.concatenate([table.ravel() for table in tables]),
        "separators": flat,
        "children": _flat(children),
        "up": _flat(maps),
        "reach": _flat(reach),
    }


def separators_of(parents: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The separator of every variable when they are eliminated from the last to the first."""
    joined = [set(row) for row in parents]
    for variable in reversed(range(len(joined))):
        if joined[variable]:
            last = max(joined[variable])
            joined[last] |= joined[variable] - {last}
    return [tuple(sorted(row)) for row in joined]


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _expanded(network: Network, variable: int, separator: tuple[int, ...]) -> FloatArray:
    """P(variable | separator) as [rows, states], though it depends on the parents alone."""
    states, parents = network.states, network.parents[variable]
    shape = [states[other] if other in parents else 1 for other in separator]
    full = [states[other] for other in separator]
    table = network.tables[variable].reshape(*shape, states[variable])
    return np.broadcast_to(table, (*full, states[variable])).reshape(-1, states[variable])


def _row_map(
    separator: tuple[int, ...],
    strides: tuple[int, ...],
    above: tuple[int, ...],
    shape: tuple[int, ...],
) -> IntArray:
    """For each entry of the bucket above, the row of this bucket that it belongs to."""
    grid = dict(zip(above, np.indices(shape).reshape(len(above), -1), strict=True))
    row = np.zeros(math.prod(shape), np.int64)
    for other, stride in zip(separator, strides, strict=True):
        row += stride * grid[other]
    return row


def _reachable(network: Network, stage: int) -> list[int]:
    """Stages whose demand a directed path leads to from this stage's demand, nearest first.

    Length is counted in steps from stage to stage: a stage's fan-out and its demand count as one.
    """
    owner = {int(v): s for s, v in enumerate(network.demand)}
    owner |= {int(v): s for s, v in enumerate(network.fanout) if v >= 0}
    children: list[list[int]] = [[] for _ in network.parents]
    for parent, child in network.edges:
        children[parent].append(child)
    start = int(network.demand[stage])
    distance = {start: 0}
    queue = deque([start])
    while queue:
        variable = queue.popleft()
        for child in children[variable]:
            step = int(owner[child] != owner[variable])
            if distance[variable] + step < distance.get(child, len(owner) + 1):
                distance[child] = distance[variable] + step
                (queue.append if step else queue.appendleft)(child)
    found = [s for s, v in enumerate(network.demand) if s != stage and int(v) in distance]
    return sorted(found, key=lambda s: (distance[int(network.demand[s])], s))


def _static_moments(
    network: Network,
    template: Template,
    stage_of: IntArray,
    tables: list[FloatArray],
    children: list[list[int]],
    maps: list[IntArray],
) -> FloatArray:
    """Moments of the demand in and below each bucket, given its row, without evidence.

    Columns: mean of the LLM part, of the regular part, variance, covariance, variance.
    """
    moments: list[FloatArray] = [np.zeros(0)] * len(tables)
    for variable in reversed(range(len(tables))):
        table, stage = tables[variable], stage_of[variable]
        below = np.zeros((*table.shape, 5))
        if stage >= 0:
            bins, kind = network.demand_bins[stage], template.kinds[stage]
            below[..., kind], below[..., 2 + 2 * kind] = bins.mean, bins.variance
        for child in children[variable]:
            below += moments[child][maps[child]].reshape(*table.shape, 5)
        below[..., 2:] += _products(below)
        mixed = np.einsum("rx,rxk->rk", table, below)
        mixed[:, 2:] -= _products(mixed)
        moments[variable] = mixed
    return np.concatenate(moments)


def _products(moments: FloatArray) -> FloatArray:
    llm, regular = moments[..., 0], moments[..., 1]
    return np.stack([llm * llm, llm * regular, regular * regular], axis=-1)


def _ranges(rows: Sequence[Any]) -> tuple[IntArray, IntArray]:
    ends = np.cumsum([len(row) for row in rows])
    return ends - [len(row) for row in rows], ends


def _flat(rows: Sequence[Any]) -> IntArray:
    return np.array([value for row in rows for value in row], np.int64)


def new_beliefs(num_jobs: int, networks: Networks) -> Beliefs:
    """Room for the beliefs about ``num_jobs`` jobs, all zero."""
    most = {
        field: int(np.diff(networks.applications[field]).max(initial=0))
        for field in ("stages", "variables", "rows", "entries")
    }
    width = networks.bins.shape[1]
    return Beliefs(
        stages=np.zeros((num_jobs, most["stages"]), BELIEF_STAGE),
        jobs=np.zeros(num_jobs, BELIEF_JOB),
        scratch=Scratch(
            stages=np.zeros(most["stages"], STAGE_STATE),
            variables=np.zeros(most["variables"], VARIABLE_STATE),
            conditional=np.zeros(most["entries"]),
            joint=np.zeros(most["entries"]),
            likelihood=np.zeros(most["rows"]),
            weight=np.zeros(most["rows"]),
            moments=np.zeros((most["rows"], 5)),
            marginal=np.zeros((most["variables"], width)),
            stack=np.zeros(max(most["stages"], int(networks.settings["reachable"][0])), np.int64),
            below=np.zeros(most["variables"], np.int64),
            messages=np.zeros(MESSAGES),
            product=np.zeros(MESSAGES),
        ),
    )


@compiled
def _select(networks: Networks, application: int) -> Networks:
    """One application's part of every table."""
    start, end = networks.applications[application], networks.applications[application + 1]
    return Networks(
        networks.settings,
        networks.applications,
        networks.tasks,
        networks.stages[start["stages"] : end["stages"]],
        networks.prior[start["stages"] : end["stages"]],
        networks.bins[start["stages"] : end["stages"]],
        networks.variables[start["variables"] : end["variables"]],
        networks.table[start["entries"] : end["entries"]],
        networks.moments[start["rows"] : end["rows"]],
        networks.separators[start["separators"] : end["separators"]],
        networks.children[start["children"] : end["children"]],
        networks.up[start["up"] : end["up"]],
        networks.reach[start["reach"] : end["reach"]],
    )


# --- Exact posteriors -------------------------------------------------------------------------
# Kernels take their arrays out of the named tuples once: numba counts references at every access.


@compiled
def _forget(net: Networks, scratch: Scratch) -> None:
    """No evidence."""
    variables, work = net.variables, scratch.variables
    for v in range(len(variables)):
        work[v]["low"], work[v]["high"] = 0, variables[v]["states"] - 1


@compiled
def _trace(net: Networks, scratch: Scratch) -> None:
    """Where evidence reaches: root, component and dirty of every bucket."""
    variables, separators, work = net.variables, net.separators, scratch.variables
    for v in range(len(variables)):
        own, here = variables[v], work[v]
        row = 0
        for k in range(own["separator"], own["end_separator"]):
            other = work[separators[k]["variable"]]
            if other["low"] != other["high"]:
                row = -1
                break
            row += separators[k]["stride"] * other["low"]
        here["root"] = row
        here["component"] = v if row >= 0 else work[own["parent"]]["component"]
        here["dirty"] = 1 if here["low"] > 0 or here["high"] < own["states"] - 1 else 0
    for v in range(len(variables) - 1, -1, -1):
        if work[v]["dirty"] == 1 and work[v]["root"] < 0:
            work[variables[v]["parent"]]["dirty"] = 1


@compiled
def _settled(here: Table) -> bool:
    """Whether evidence fixes a bucket's variable and its separator: nothing is left to compute."""
    return bool(here["root"] >= 0 and here["low"] == here["high"])


@compiled
def _collect(net: Networks, scratch: Scratch) -> None:
    """The pass up: multiply the evidence into the buckets that have some in or below them."""
    variables, table, children, up = net.variables, net.table, net.children, net.up
    work, conditional, likelihood = scratch.variables, scratch.conditional, scratch.likelihood
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["dirty"] == 0 or _settled(here):
            continue
        states, base = own["states"], own["entry"]
        start, end = 0, own["num_rows"]
        if here["root"] >= 0:  # the separator is known: one row is enough
            start, end = here["root"], here["root"] + 1
        for row in range(start, end):
            for x in range(states):
                inside = here["low"] <= x <= here["high"]
                conditional[base + row * states + x] = (
                    table[base + row * states + x] if inside else 0.0
                )
        for k in range(own["child"], own["end_child"]):
            u = children[k]
            if work[u]["dirty"] == 1 and work[u]["root"] < 0:
                below, first = variables[u]["up"], variables[u]["row"]
                for entry in range(start * states, end * states):
                    conditional[base + entry] *= likelihood[first + up[below + entry]]
        _normalise_rows(own, here, start, end, conditional, likelihood)


@compiled
def _normalise_rows(
    own: Table, here: Table, start: int, end: int, conditional: FloatArray, likelihood: FloatArray
) -> None:
    """Turn the products in a bucket into conditional probabilities and the rows' likelihoods."""
    states, first = own["states"], own["row"]
    best = 0.0
    for row in range(start, end):
        entry = own["entry"] + row * states
        total = 0.0
        for x in range(states):
            total += conditional[entry + x]
        likelihood[first + row] = total
        best = max(best, total)
        if total > 0.0:
            for x in range(states):
                conditional[entry + x] /= total
    for row in range(start, end):
        if best > 0.0:
            likelihood[first + row] /= best
            continue
        likelihood[first + row] = 1.0  # impossible evidence: nothing is learned from it
        for x in range(here["low"], here["high"] + 1):
            spread = 1.0 / (here["high"] - here["low"] + 1)
            conditional[own["entry"] + row * states + x] = spread


@compiled
def _collect_moments(net: Networks, scratch: Scratch) -> None:
    """Moments of what remains in and below each bucket that evidence reaches, row by row."""
    variables, stages, bins = net.variables, net.stages, net.bins
    children, up, static = net.children, net.up, net.moments
    lefts, work, conditional = scratch.stages, scratch.variables, scratch.conditional
    moments = scratch.moments
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["dirty"] == 0 or _settled(here):
            continue
        states, stage = own["states"], own["stage"]
        start, end = 0, own["num_rows"]
        if here["root"] >= 0:
            start, end = here["root"], here["root"] + 1
        left = lefts[stage]["left"] if stage >= 0 else 0.0
        regular = left > 0.0 and stages[stage]["kind"] == 1
        for row in range(start, end):
            m0 = m1 = m2 = m3 = m4 = 0.0
            for x in range(here["low"], here["high"] + 1):
                p = conditional[own["entry"] + row * states + x]
                if p == 0.0:
                    continue
                e0 = e1 = e2 = e3 = e4 = 0.0
                if left > 0.0:
                    mean = left * bins[stage, x]["mean_s"]
                    variance = left * left * bins[stage, x]["variance"]
                    if regular:
                        e1, e4 = mean, variance
                    else:
                        e0, e2 = mean, variance
                for k in range(own["child"], own["end_child"]):
                    u = children[k]
                    if work[u]["root"] >= 0:
                        continue
                    at = variables[u]["row"] + up[variables[u]["up"] + row * states + x]
                    if work[u]["dirty"] == 1:
                        e0 += moments[at, 0]
                        e1 += moments[at, 1]
                        e2 += moments[at, 2]
                        e3 += moments[at, 3]
                        e4 += moments[at, 4]
                    else:
                        e0 += static[at, 0]
                        e1 += static[at, 1]
                        e2 += static[at, 2]
                        e3 += static[at, 3]
                        e4 += static[at, 4]
                m0 += p * e0
                m1 += p * e1
                m2 += p * (e2 + e0 * e0)
                m3 += p * (e3 + e0 * e1)
                m4 += p * (e4 + e1 * e1)
            at = own["row"] + row
            moments[at, 0] = m0
            moments[at, 1] = m1
            moments[at, 2] = m2 - m0 * m0
            moments[at, 3] = m3 - m0 * m1
            moments[at, 4] = m4 - m1 * m1


@compiled
def _distribute(net: Networks, scratch: Scratch) -> None:
    """The pass down: the posterior of every variable."""
    variables, table, up = net.variables, net.table, net.up
    work, conditional, joint = scratch.variables, scratch.conditional, scratch.joint
    weight, marginal = scratch.weight, scratch.marginal
    for v in range(len(variables)):
        own, here = variables[v], work[v]
        states, first = own["states"], own["row"]
        for x in range(states):
            marginal[v, x] = 0.0
        if _settled(here):
            marginal[v, here["low"]] = 1.0
            continue
        start, end = 0, own["num_rows"]
        if here["root"] >= 0:
            start, end = here["root"], here["root"] + 1
            weight[first + start] = 1.0
        else:
            for row in range(start, end):
                weight[first + row] = 0.0
            above, over = variables[own["parent"]], work[own["parent"]]
            top, bottom = 0, above["num_rows"]
            if over["root"] >= 0:
                top, bottom = over["root"], over["root"] + 1
            for entry in range(top * above["states"], bottom * above["states"]):
                weight[first + up[own["up"] + entry]] += joint[above["entry"] + entry]
        total = 0.0
        for row in range(start, end):
            w = weight[first + row]
            for entry in range(own["entry"] + row * states, own["entry"] + (row + 1) * states):
                p = w * (conditional[entry] if here["dirty"] == 1 else table[entry])
                joint[entry] = p
                marginal[v, entry - own["entry"] - row * states] += p
                total += p
        if not total > 0.0:  # after impossible evidence: whatever is allowed
            for x in range(here["low"], here["high"] + 1):
                marginal[v, x] = 1.0 / (here["high"] - here["low"] + 1)


@compiled
def _fill_prior(net: Networks, scratch: Scratch) -> None:
    """The beliefs before any evidence, and given presence alone."""
    _forget(net, scratch)
    _trace(net, scratch)
    _distribute(net, scratch)
    for c in range(len(net.stages)):
        v = net.stages[c]["demand"]
        marginal = scratch.marginal[v, : net.variables[v]["states"]]
        variance = _describe(net.bins[c], net.settings[0], marginal, net.prior[c, 0])
        net.stages[c]["variance"] = variance
        present = 1.0 - marginal[0]
        marginal[0] = 0.0
        for x in range(1, len(marginal)):
            marginal[x] = marginal[x] / present if present > 0.0 else 1.0 / (len(marginal) - 1)
        variance = _describe(net.bins[c], net.settings[0], marginal, net.prior[c, 1])
        net.stages[c]["variance_present"] = variance


@compiled
def _describe(bins: Table, settings: Table, marginal: FloatArray, out: Table) -> float:
    """Summarise the posterior of a stage's demand; returns its variance."""
    mean = square = entropy = 0.0
    for x in range(len(marginal)):
        p = marginal[x]
        if p > 0.0:
            mean += p * bins[x]["mean_s"]
            square += p * (bins[x]["variance"] + bins[x]["mean_s"] * bins[x]["mean_s"])
            entropy -= p * math.log2(p)
    out["presence"] = 1.0 - marginal[0]
    out["demand_s"] = mean
    out["entropy_bits"] = max(0.0, entropy)
    out["low_s"] = _quantile(bins, marginal, settings["low"])
    out["high_s"] = _quantile(bins, marginal, settings["high"])
    return max(0.0, square - mean * mean)


@compiled
def _quantile(bins: Table, marginal: FloatArray, level: Any) -> float:
    """A quantile of a stage's demand: of the mixture of its bins, weighted by ``marginal``.

    Inside a bin the quantile function is ``least + (most - least) u ** shape``, with the shape
    that gives the bin its mean.
    """
    below = 0.0
    last = 0
    for x in range(len(marginal)):
        if marginal[x] <= 0.0:
            continue
        last = x
        if below + marginal[x] >= level - 1e-12:
            least, spread = bins[x]["least_s"], bins[x]["most_s"] - bins[x]["least_s"]
            if spread <= 0.0:
                return float(least)
            u = min(1.0, max(0.0, (level - below) / marginal[x]))
            return float(least + spread * u ** bins[x]["shape"])
        below += marginal[x]
    return float(bins[last]["most_s"])


# --- What a job shows -------------------------------------------------------------------------


@compiled
def _observe(
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


@compiled
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


@compiled
def _set_evidence(state: ClusterState, net: Networks, scratch: Scratch) -> int:
    """Turn what is known into evidence; returns how many values no past job had."""
    _forget(net, scratch)
    stages, variables, bins = net.stages, net.variables, net.bins
    known, work, actual = scratch.stages, scratch.variables, state.stages
    clamped = 0
    for c in range(len(stages)):
        status, s = known[c]["status"], known[c]["actual"]
        if status == UNDETERMINED or status == UNKNOWN:
            continue
        v, f = stages[c]["demand"], stages[c]["fanout"]
        if status == ABSENT:
            work[v]["high"] = 0
        elif status == PRESENT:
            work[v]["low"] = 1
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
    return clamped


@compiled
def _demand_bin(bins: Table, states: int, seconds: float) -> int:
    """The state of a present demand: that of the nearest bin."""
    k = 1
    while k < states - 1 and seconds > (bins[k]["most_s"] + bins[k + 1]["least_s"]) / 2:
        k += 1
    return k


@compiled
def _fanout_bin(bins: Table, states: int, tasks: int) -> int:
    k = 1
    while k < states - 1 and tasks > (bins[k]["most_tasks"] + bins[k + 1]["least_tasks"]) / 2:
        k += 1
    return k


# --- Uncertainty reduction --------------------------------------------------------------------


@compiled
def _reduction(
    templates: TemplateTable,
    net: Networks,
    scratch: Scratch,
    beliefs: Table,
    base: int,
    stage: int,
) -> float:
    """R of a ready stage (bit s): what its completion tells, times how much that matters.

    ``I(X; Y_1..Y_M) * sum Range(Y_m)`` over the nearest reachable unfinished stages, plus
    ``sum H(presence of Z, fan-out of Z) * Range(Z)`` over the undetermined stages it may reveal.
    Range is the distance between the two quantiles of a stage's posterior demand.
    """
    stages, settings, reach = net.stages, net.settings[0], net.reach
    known, stack = scratch.stages, scratch.stack
    found = 0
    ranges = 0.0
    for k in range(stages[stage]["reach"], stages[stage]["end_reach"]):
        c = reach[k]
        if found < settings["reachable"] and known[c]["status"] <= PRESENT:
            stack[found] = stages[c]["demand"]
            found += 1
            ranges += beliefs[c]["high_s"] - beliefs[c]["low_s"]
    total = 0.0
    if found > 0 and ranges > 0.0:
        total = _information(net, scratch, stages[stage]["demand"], found) * ranges
    if settings["structural"] == 1:
        first, last = templates.reveals_of[base + stage], templates.reveals_of[base + stage + 1]
        for k in range(first, last):
            c = templates.reveals[k] - base
            between = beliefs[c]["high_s"] - beliefs[c]["low_s"]
            if known[c]["status"] == UNDETERMINED and between > 0.0:
                v, states = stages[c]["fanout"], 0
                if v >= 0:
                    states = net.variables[v]["states"]
                else:
                    v = stages[c]["demand"]
                total += _structural_entropy(scratch.marginal[v], states) * between
    return total


@compiled
def _structural_entropy(marginal: FloatArray, states: int) -> float:
    """Entropy in bits of a fan-out, or of presence alone where there is none (no states)."""
    total = 0.0
    for x in range(states):
        total += _plogp(marginal[x])
    if states == 0:
        total = _plogp(marginal[0]) + _plogp(1.0 - marginal[0])
    return total


@compiled
def _plogp(p: float) -> float:
    return -p * math.log2(p) if p > 0.0 else 0.0


@compiled
def _information(net: Networks, scratch: Scratch, x: int, found: int) -> float:
    """I(X; Y_1..Y_M | evidence) in bits; the Ys are the first ``found`` variables on the stack."""
    variables, work, stack = net.variables, scratch.variables, scratch.stack
    top = work[x]["component"]
    for v in range(len(variables)):
        work[v]["mark"] = 0
    _mark_path(variables, work, x, top)
    last, asked = x, 1
    for k in range(found):
        y = stack[k]
        if work[y]["component"] == top and work[y]["low"] < work[y]["high"]:
            _mark_path(variables, work, y, top)
            last = max(last, y)
            asked += 1
    if asked == 1:
        return 0.0
    used = 0
    for v in range(last, top - 1, -1):
        if work[v]["mark"] > 0:
            used = _message(net, scratch, v, x, used, asked)
            if used < 0:  # no room: ask about fewer
                return _information(net, scratch, x, found - 1)
            if work[v]["asked"] == asked:
                return _joint_information(scratch, v, x)
    return 0.0


@compiled
def _mark_path(variables: Table, work: Table, v: int, top: int) -> None:
    """Mark the buckets from a variable up to the root of its tree."""
    u = v
    while work[u]["mark"] == 0:
        work[u]["mark"] = 1
        if u == top:
            break
        u = variables[u]["parent"]
    work[v]["mark"] = 2


@compiled
def _message(net: Networks, scratch: Scratch, v: int, x: int, used: int, asked: int) -> int:
    """P(variables asked about in and below a bucket | its row), or their joint at the top.

    Written to ``scratch.messages`` from ``used`` on. Returns where the free space begins, or -1 if
    there is not enough.
    """
    variables, table, children, up = net.variables, net.table, net.children, net.up
    work, conditional, messages = scratch.variables, scratch.conditional, scratch.messages
    weight, product, stack = scratch.weight, scratch.product, scratch.below
    own, here = variables[v], work[v]
    states, marked = own["states"], 0
    below, inner, axis = 0, 1, 0
    for k in range(own["child"], own["end_child"]):
        child = work[children[k]]
        if child["mark"] > 0:
            below += child["asked"]
            inner *= child["size"]
            axis = child["axis"] if child["axis"] > 0 else axis * child["size"]
            stack[marked] = children[k]
            marked += 1
    size = inner
    if here["mark"] == 2:
        below += 1
        size *= here["high"] - here["low"] + 1
        if v == x:
            axis = inner
    top = below == asked
    end = used + size * (1 if top else own["num_rows"])
    if end > len(messages):
        return -1
    here["asked"], here["size"], here["axis"], here["message"] = below, size, axis, used
    for q in range(used, end):
        messages[q] = 0.0
    for row in range(own["num_rows"]):
        if (here["root"] >= 0 and row != here["root"]) or weight[own["row"] + row] == 0.0:
            continue
        for state in range(here["low"], here["high"] + 1):
            entry = row * states + state
            p = conditional[own["entry"] + entry]
            if here["dirty"] == 0:
                p = table[own["entry"] + entry]
            if p == 0.0:
                continue
            out = used
            if top:
                p *= weight[own["row"] + row]
            else:
                out += row * size
            if here["mark"] == 2:
                out += (state - here["low"]) * inner
            product[0] = p
            length = 1
            for k in range(marked - 1):
                child = work[stack[k]]
                at = child["message"]
                at += up[variables[stack[k]]["up"] + entry] * child["size"]
                for i in range(length - 1, -1, -1):
                    value = product[i]
                    for q in range(child["size"]):
                        product[i * child["size"] + q] = value * messages[at + q]
                length *= child["size"]
            if marked == 0:
                messages[out] += p
                continue
            child = work[stack[marked - 1]]
            at = child["message"] + up[variables[stack[marked - 1]]["up"] + entry] * child["size"]
            for i in range(length):
                for q in range(child["size"]):
                    messages[out + i * child["size"] + q] += product[i] * messages[at + q]
    return end


@compiled
def _joint_information(scratch: Scratch, v: int, x: int) -> float:
    """I(X; the other variables asked about) from the joint distribution at a bucket."""
    here, asked = scratch.variables[v], scratch.variables[x]
    joint, alone = scratch.messages, scratch.product
    start, size, axis = here["message"], here["size"], here["axis"]
    states = asked["high"] - asked["low"] + 1
    for state in range(states):
        alone[state] = 0.0
    information = total = 0.0
    for block in range(start, start + size, axis * states):
        for rest in range(axis):
            others = 0.0
            for state in range(states):
                p = joint[block + state * axis + rest]
                others += p
                alone[state] += p
                information -= _plogp(p)
            information += _plogp(others)
            total += others
    if not total > 0.0:
        return 0.0
    for state in range(states):
        information += _plogp(alone[state])
    # With a total of t instead of 1 this sum is t (I - log2 t).
    return max(0.0, information / total + math.log2(total))


# --- Updating ---------------------------------------------------------------------------------


@compiled
def update(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    mode: int,
) -> None:
    """Update the beliefs about every job in ``state.changed``.

    Parameters
    ----------
    state : of the cluster. What is hidden in it is read in mode ``ORACLE`` only.
    templates, networks : in the order of the bank's applications.
    beliefs : written. A job's stage rows are computed when evidence came, its sums always.
    mode : ``NONE``, ``PRIOR``, ``BAYES`` or ``ORACLE``.
    """
    if mode == NONE:
        return
    for k in range(state.clock[0]["changed"]):
        job = state.changed[k]
        if mode == ORACLE:
            _reveal_truth(state, templates, beliefs, job)
        else:
            _update_job(state, templates, networks, beliefs, job, mode)


@compiled
def _update_job(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    job: int,
    mode: int,
) -> None:
    application = state.jobs[job]["application"]
    net, scratch = _select(networks, application), beliefs.scratch
    row, stages = beliefs.jobs[job], beliefs.stages[job]
    evidence = state.jobs[job]["changed"] == EVIDENCE
    row["skipped"] = _observe(state, templates, net, scratch, job)
    row["prior_llm_s"] = networks.tasks[application, 0]["job_s"]
    row["prior_regular_s"] = networks.tasks[application, 1]["job_s"]
    if mode == BAYES:
        row["clamped"] = _set_evidence(state, net, scratch)
        _trace(net, scratch)
        _collect(net, scratch)
        _collect_moments(net, scratch)
        if evidence:
            _distribute(net, scratch)
            _describe_stages(net, scratch, stages)
    elif evidence:
        _recall_prior(net, scratch, stages)
    if evidence:
        base = templates.first[application]
        _reduce_ready(state, templates, net, scratch, stages, base, mode)
    _sum_stages(net, scratch, stages, row)
    if mode == BAYES:
        _add_moments(net, scratch, row)
    else:
        _add_prior_variances(net, scratch, row)
    if row["skipped"] > 0:
        _add_skipped(state, networks.tasks[application], net, templates, row, job)


@compiled
def _describe_stages(net: Networks, scratch: Scratch, out: Table) -> None:
    stages, bins, settings, variables = net.stages, net.bins, net.settings[0], net.variables
    known, marginal = scratch.stages, scratch.marginal
    for c in range(len(stages)):
        if known[c]["status"] <= PRESENT:
            v = stages[c]["demand"]
            _describe(bins[c], settings, marginal[v, : variables[v]["states"]], out[c])
        else:
            _settle(out[c], known[c]["status"])
        out[c]["reduction"] = 0.0


@compiled
def _recall_prior(net: Networks, scratch: Scratch, out: Table) -> None:
    known = scratch.stages
    for c in range(len(net.stages)):
        status = known[c]["status"]
        if status <= PRESENT:
            prior = net.prior[c, status]
            out[c]["presence"], out[c]["demand_s"] = prior["presence"], prior["demand_s"]
            out[c]["entropy_bits"] = prior["entropy_bits"]
            out[c]["low_s"], out[c]["high_s"] = prior["low_s"], prior["high_s"]
        else:
            _settle(out[c], status)
        out[c]["reduction"] = 0.0


@compiled
def _settle(out: Table, status: int) -> None:
    """Of a stage that is complete, absent or unknown to the network nothing remains."""
    out["presence"] = 0.0 if status == ABSENT else 1.0
    out["demand_s"] = out["entropy_bits"] = out["low_s"] = out["high_s"] = 0.0


@compiled
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
            _forget(net, scratch)
            scratch.variables[net.stages[c]["demand"]]["low"] = 1
            if net.stages[c]["fanout"] >= 0:
                scratch.variables[net.stages[c]["fanout"]]["low"] = 1
            _trace(net, scratch)
            _collect(net, scratch)
            _distribute(net, scratch)
        out[c]["reduction"] = _reduction(templates, net, scratch, out, base, c)


@compiled
def _sum_stages(net: Networks, scratch: Scratch, stages: Table, row: Table) -> None:
    """Means and intervals of what remains of a job, without variances."""
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


@compiled
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


@compiled
def _add_moments(net: Networks, scratch: Scratch, row: Table) -> None:
    """Variances of what remains: the trees that the evidence leaves are independent."""
    variables, static = net.variables, net.moments
    work, moments = scratch.variables, scratch.moments
    for v in range(len(variables)):
        if work[v]["root"] < 0 or _settled(work[v]):
            continue
        at = variables[v]["row"] + work[v]["root"]
        if work[v]["dirty"] == 1:
            llm, both, regular = moments[at, 2], moments[at, 3], moments[at, 4]
        else:
            llm, both, regular = static[at, 2], static[at, 3], static[at, 4]
        row["variance_llm"] += max(0.0, llm)
        row["covariance"] += both
        row["variance_regular"] += max(0.0, regular)


@compiled
def _add_prior_variances(net: Networks, scratch: Scratch, row: Table) -> None:
    """Without evidence the stages are taken as independent."""
    for c in range(len(net.stages)):
        work, own = scratch.stages[c], net.stages[c]
        if work["left"] > 0.0:
            of_stage = own["variance_present"] if work["status"] == PRESENT else own["variance"]
            variance = work["left"] * work["left"] * of_stage
            _add_demand(row, own["kind"], 0.0, 0.0, 0.0, variance)


@compiled
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


@compiled
def _reveal_truth(
    state: ClusterState, templates: TemplateTable, beliefs: Beliefs, job: int
) -> None:
    """What really remains of a job, without uncertainty: the clairvoyant belief."""
    base = templates.first[state.jobs[job]["application"]]
    row, out = beliefs.jobs[job], beliefs.stages[job]
    for c in range(len(out)):
        _settle(out[c], ABSENT)
        out[c]["reduction"] = 0.0
    row["prior_llm_s"] = row["prior_regular_s"] = row["llm_s"] = row["regular_s"] = 0.0
    row["variance_llm"] = row["covariance"] = row["variance_regular"] = 0.0
    row["skipped"] = row["clamped"] = 0
    first = state.jobs[job]["first_stage"]
    for s in range(first, first + state.jobs[job]["num_stages"]):
        stage = state.stages[s]
        left = 0.0
        for t in range(stage["first_task"], stage["first_task"] + stage["num_tasks"]):
            end = state.tasks[t]["end"]
            if end < 0 or end > state.clock[0]["now"]:
                left += state.tasks[t]["demand"] / TICKS_PER_SECOND
        whole = stage["demand"] / TICKS_PER_SECOND
        if stage["kind"] == 0:
            row["prior_llm_s"] += whole
            row["llm_s"] += left
        else:
            row["prior_regular_s"] += whole
            row["regular_s"] += left
        c = stage["canonical"] - base
        if c >= 0:
            out[c]["presence"] = 1.0
            if left > 0.0:
                out[c]["demand_s"] = out[c]["low_s"] = out[c]["high_s"] = whole
    row["low_llm_s"] = row["high_llm_s"] = row["llm_s"]
    row["low_regular_s"] = row["high_regular_s"] = row["regular_s"]
