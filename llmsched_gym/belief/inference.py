"""The fitted networks compiled to flat arrays, and exact posteriors from them in microseconds.

Variables are eliminated from the last to the first (in topological order). Variable v then owns a
*bucket*: itself and its *separator*, the earlier variables it is still joined with. The network is
the product of ``P(v | separator)`` over the buckets, which hang on each other in a tree (the bucket
of v on that of the last variable of its separator). One pass up this tree multiplies the evidence
in, one pass down it reads the posteriors off. A variable without evidence in or below its bucket
keeps its static table, and where evidence fixes a whole separator the tree falls apart: only the
part of a job that is still uncertain costs time.

Evidence is an interval of states per variable: absent is [0, 0], present [1, K], a value [k, k].

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
from llmsched_gym.workload.template import Template, TemplateTable, template_table

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Table = NDArray[np.void]

NONE, PRIOR, BAYES, ORACLE = 0, 1, 2, 3
MODES = {"none": NONE, "prior": PRIOR, "bayes": BAYES, "oracle": ORACLE}

BELIEF_STAGE = np.dtype(
    [
        ("presence", np.float64),  # probability that the stage exists
        ("demand_s", np.float64),  # mean, seconds at batch size 1; absent counts 0, complete is 0
        ("entropy_bits", np.float64),  # of its demand variable, "absent" included
        ("low_s", np.float64),  # quantiles of its demand
        ("high_s", np.float64),
        ("reduction", np.float64),  # R, bit s; 0 unless the stage is ready
    ]
)

BELIEF_JOB = np.dtype(
    [
        ("prior_llm_s", np.float64),  # mean of the whole demand, known of every job alike
        ("prior_regular_s", np.float64),
        ("llm_s", np.float64),  # E[rem]
        ("regular_s", np.float64),
        ("variance_llm", np.float64),  # of the remaining demand, s^2
        ("covariance", np.float64),  # of its LLM and its regular part, s^2
        ("variance_regular", np.float64),
        ("low_llm_s", np.float64),  # sums of the stages' quantiles
        ("low_regular_s", np.float64),
        ("high_llm_s", np.float64),
        ("high_regular_s", np.float64),
        ("skipped", np.int64),  # visible stages that no past job had
        ("clamped", np.int64),  # values that no past job had, taken as the nearest
    ]
)

# What is known of a canonical stage of a job.
UNDETERMINED, PRESENT, COMPLETE, ABSENT, UNKNOWN = 0, 1, 2, 3, 4


class Networks(NamedTuple):
    """All networks of a bank's applications, compiled.

    A applications, C canonical stages in all, V variables in all, at most S states each. The rows
    of a bucket are the states of its separator; its entries are (row, state of the variable).
    Variable numbers inside compressed rows are global (0 to V - 1), so are stage numbers.
    """

    levels: FloatArray  # [2]: the low and the high quantile
    reachable: int  # M
    structural: int  # 1: the uncertainty reduction counts what a stage reveals
    first: IntArray  # [A + 1] stages of application a: first[a]:first[a + 1]
    variables: IntArray  # [A + 1]
    kind: IntArray  # [C]
    demand: IntArray  # [C] variables
    fanout: IntArray  # [C] variables, -1 if none
    demand_least: FloatArray  # [C, S] seconds, by state
    demand_mean: FloatArray
    demand_most: FloatArray
    demand_variance: FloatArray
    demand_shape: FloatArray  # [C, S] exponent of the quantile function inside the bin
    tasks_least: FloatArray  # [C, S] number of tasks, by fan-out state
    tasks_most: FloatArray
    prior: Table  # BELIEF_STAGE [C], before any evidence
    prior_present: Table  # BELIEF_STAGE [C], given that the stage is present
    prior_variance: FloatArray  # [C, 2]: before any evidence, given presence
    prior_job: FloatArray  # [A, 2] seconds: LLM, regular
    task_mean: FloatArray  # [A, 2 kinds] seconds, for stages that no past job had
    task_variance: FloatArray
    task_low: FloatArray
    task_high: FloatArray
    states: IntArray  # [V]
    stage: IntArray  # [V] the stage whose demand it is, -1 for a fan-out
    parent: IntArray  # [V] the bucket it hangs on, -1 for a root
    rows: IntArray  # [V + 1] starts of the rows of each bucket
    entries: IntArray  # [V + 1] starts of the entries of each bucket
    table: FloatArray  # [entries] P(variable | separator) without evidence below
    moments: FloatArray  # [rows, 5] static moments of the demand in and below the bucket
    separator_of: IntArray  # [V + 1]
    separator: IntArray  # variables
    stride: IntArray  # their strides in the row number
    child_of: IntArray  # [V + 1]
    child: IntArray  # variables whose buckets hang on this one
    up_of: IntArray  # [V + 1]
    up: IntArray  # for each entry of the bucket it hangs on, the row of this bucket
    reach_of: IntArray  # [C + 1]
    reach: IntArray  # stages reachable from the demand of stage c, nearest first


class Beliefs(NamedTuple):
    """What is believed of every job, and scratch space (one per thread)."""

    stages: Table  # BELIEF_STAGE [num_jobs, most canonical stages of an application]
    jobs: Table  # BELIEF_JOB [num_jobs]
    origin: IntArray  # [4] where the application's stages, variables, rows, entries begin
    status: IntArray  # [stages of one application]
    actual: IntArray  # [stages] the job's stage, -1 if not visible
    fraction: FloatArray  # [stages] part of the demand that remains
    stack: IntArray
    low: IntArray  # [variables] evidence
    high: IntArray
    dirty: IntArray  # [variables] 1: evidence in or below the bucket
    root: IntArray  # [variables] the row of the separator if evidence fixes it, else -1
    component: IntArray  # [variables] the root of the tree it is left in
    conditional: FloatArray  # [entries] P(variable | separator, evidence below)
    joint: FloatArray  # [entries] P(variable, separator | evidence)
    likelihood: FloatArray  # [rows] P(evidence in and below | separator), scaled
    weight: FloatArray  # [rows] P(separator | evidence)
    moments: FloatArray  # [rows, 5]
    marginal: FloatArray  # [variables, S]
    mark: IntArray  # [variables]
    queries: IntArray  # [variables] how many variables of a question are in or below a bucket
    size: IntArray  # [variables] of a message
    offset: IntArray  # [variables] of a message
    axis: IntArray  # [variables] stride of the ready stage's state in a message
    message: FloatArray
    product: FloatArray


MESSAGE = 1 << 18  # floats for the messages of one mutual information


# --------------------------------------------------------------------------------------------------
# Compiling a profile


def compile_profile(profile: BeliefProfile, applications: Sequence[str]) -> Networks:
    """Flat arrays of the networks of the given applications, in that order.

    Stage numbers agree with ``template_table(applications, profile.templates)``. An application
    without past jobs has no stages; its jobs are judged by the tasks of all applications.
    """
    parts = [
        _compile(profile.networks[name], profile.templates[name])
        if name in profile.networks
        else _Part()
        for name in applications
    ]
    settings = profile.settings
    width = max([part.states.max(initial=1) for part in parts], default=1)
    first = _starts([len(part.demand) for part in parts])
    variables = _starts([len(part.states) for part in parts])
    tasks = [profile.tasks.get(name, profile.tasks[""]) for name in applications]

    def shifted(field: str, base: IntArray) -> IntArray:
        rows = [getattr(part, field) for part in parts]
        moved = [np.where(row < 0, -1, row + at) for row, at in zip(rows, base, strict=False)]
        return np.concatenate([*moved, np.zeros(0, np.int64)]).astype(np.int64)

    def joined(field: str) -> Any:
        return np.concatenate([getattr(part, field) for part in parts])

    def padded(bins: str, field: str) -> FloatArray:
        rows = [getattr(row, field) for part in parts for row in getattr(part, bins)]
        return np.array([np.pad(row, (0, width - len(row))) for row in rows]).reshape(-1, width)

    def counts(field: str) -> IntArray:
        return _starts(joined(field))

    least, mean, most = (padded("demand_bins", name) for name in ("least", "mean", "most"))
    spread = mean - least > 1e-12 * np.maximum(most, 1e-300)
    networks = Networks(
        levels=np.array([settings.low, settings.high]),
        reachable=settings.reachable,
        structural=int(settings.structural),
        first=first,
        variables=variables,
        kind=joined("kind"),
        demand=shifted("demand", variables),
        fanout=shifted("fanout", variables),
        demand_least=least,
        demand_mean=mean,
        demand_most=most,
        demand_variance=padded("demand_bins", "variance"),
        demand_shape=np.where(spread, (most - mean) / np.where(spread, mean - least, 1.0), 1.0),
        tasks_least=padded("fanout_bins", "least"),
        tasks_most=padded("fanout_bins", "most"),
        prior=np.zeros(first[-1], BELIEF_STAGE),
        prior_present=np.zeros(first[-1], BELIEF_STAGE),
        prior_variance=np.zeros((first[-1], 2)),
        prior_job=np.array([row.per_job for row in tasks]).reshape(-1, 2),
        task_mean=np.array([row.mean for row in tasks]).reshape(-1, 2),
        task_variance=np.array([row.variance for row in tasks]).reshape(-1, 2),
        task_low=np.array([row.low for row in tasks]).reshape(-1, 2),
        task_high=np.array([row.high for row in tasks]).reshape(-1, 2),
        states=joined("states"),
        stage=shifted("stage", first),
        parent=shifted("parent", variables),
        rows=counts("num_rows"),
        entries=counts("num_entries"),
        table=joined("table"),
        moments=np.concatenate([part.moments for part in parts]).reshape(-1, 5),
        separator_of=counts("separators"),
        separator=shifted("separator", variables),
        stride=joined("stride"),
        child_of=counts("children"),
        child=shifted("child", variables),
        up_of=counts("num_up"),
        up=joined("up"),
        reach_of=counts("num_reach"),
        reach=shifted("reach", first),
    )
    beliefs = new_beliefs(1, networks)
    for application, name in enumerate(applications):
        _fill_prior(networks, beliefs, application)
        if name in profile.networks:
            rows = slice(first[application], first[application + 1])
            for kind in (0, 1):
                mine = networks.kind[rows] == kind
                total = networks.prior["demand_s"][rows][mine].sum()
                networks.prior_job[application, kind] = total
    return networks


class _Part:
    """One application's share of the arrays of Networks, numbered from 0."""

    def __init__(self) -> None:
        none = np.zeros(0, np.int64)
        self.kind = self.demand = self.fanout = self.states = self.stage = self.parent = none
        self.num_rows = self.num_entries = self.separators = self.children = self.num_up = none
        self.num_reach = self.reach = self.separator = self.stride = self.child = self.up = none
        self.table = np.zeros(0)
        self.moments = np.zeros((0, 5))
        self.demand_bins: tuple[Any, ...] = ()
        self.fanout_bins: tuple[Any, ...] = ()


def _compile(network: Network, template: Template) -> _Part:
    states = network.states
    separators = separators_of(network.parents)
    parents = [max(row, default=-1) for row in separators]
    shapes = [tuple(states[other] for other in row) for row in separators]
    strides = [_strides(shape) for shape in shapes]
    tables = [_expanded(network, v, row) for v, row in enumerate(separators)]
    maps = [
        _row_map(separators[v], strides[v], separators[p], shapes[p], p, states[p])
        if (p := parents[v]) >= 0
        else np.zeros(0, np.int64)
        for v in range(len(states))
    ]
    children: list[list[int]] = [[] for _ in states]
    for v, p in enumerate(parents):
        if p >= 0:
            children[p].append(v)
    stage = np.full(len(states), -1, np.int64)
    stage[network.demand] = np.arange(len(network.demand))
    kind = np.array(template.kinds, np.int64)
    reach = [_reachable(network, stage_) for stage_ in range(len(kind))]

    part = _Part()
    part.kind, part.demand, part.fanout = kind, network.demand, network.fanout
    part.demand_bins, part.fanout_bins = network.demand_bins, network.fanout_bins
    part.states, part.stage = np.array(states, np.int64), stage
    part.parent = np.array(parents, np.int64)
    part.num_rows = np.array([math.prod(shape) for shape in shapes], np.int64)
    part.num_entries = part.num_rows * part.states
    part.table = np.concatenate([table.ravel() for table in tables])
    part.separators, part.separator = _lengths(separators), _flat(separators)
    part.stride = _flat(strides)
    part.children, part.child = _lengths(children), _flat(children)
    part.num_up, part.up = _lengths(maps), _flat(maps)
    part.num_reach, part.reach = _lengths(reach), _flat(reach)
    part.moments = _static_moments(network, stage, kind, tables, children, maps)
    return part


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
    above_shape: tuple[int, ...],
    parent: int,
    parent_states: int,
) -> IntArray:
    """For each entry of the parent's bucket, the row of this bucket that it belongs to."""
    grid = np.indices((*above_shape, parent_states)).reshape(len(above) + 1, -1)
    position = {other: axis for axis, other in enumerate((*above, parent))}
    row = np.zeros(grid.shape[1], np.int64)
    for other, stride in zip(separator, strides, strict=True):
        row += stride * grid[position[other]]
    return row


def _reachable(network: Network, stage: int) -> list[int]:
    """Stages whose demand a directed path leads to from this stage's demand, nearest first.

    Length is counted in steps from stage to stage; a stage's fan-out and demand count as one.
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
    stage: IntArray,
    kind: IntArray,
    tables: list[FloatArray],
    children: list[list[int]],
    maps: list[IntArray],
) -> FloatArray:
    """Moments of the demand in and below each bucket, given its separator, without evidence.

    Columns: mean of the LLM part, of the regular part, variance, covariance, variance.
    """
    moments: list[FloatArray] = [np.zeros(0)] * len(tables)
    for variable in reversed(range(len(tables))):
        table = tables[variable]
        mean = np.zeros((*table.shape, 2))
        cov = np.zeros((*table.shape, 3))
        s = stage[variable]
        if s >= 0:
            mean[..., kind[s]] = network.demand_bins[s].mean
            cov[..., 2 * kind[s]] = network.demand_bins[s].variance
        for child in children[variable]:
            below = moments[child][maps[child]].reshape(*table.shape, 5)
            mean += below[..., :2]
            cov += below[..., 2:]
        second = np.stack(
            [mean[..., 0] ** 2, mean[..., 0] * mean[..., 1], mean[..., 1] ** 2], axis=-1
        )
        first = np.einsum("rx,rxk->rk", table, mean)
        cov = np.einsum("rx,rxk->rk", table, cov + second)
        cov -= np.stack([first[:, 0] ** 2, first[:, 0] * first[:, 1], first[:, 1] ** 2], axis=-1)
        moments[variable] = np.concatenate([first, cov], axis=1)
    return np.concatenate(moments) if moments else np.zeros((0, 5))


def _lengths(rows: Sequence[Sequence[int] | IntArray]) -> IntArray:
    return np.array([len(row) for row in rows], np.int64)


def _flat(rows: Sequence[Sequence[int] | IntArray]) -> IntArray:
    return np.array([value for row in rows for value in row], np.int64)


def _starts(counts: Sequence[int] | IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def new_beliefs(num_jobs: int, networks: Networks) -> Beliefs:
    """Room for the beliefs about ``num_jobs`` jobs, all zero, and scratch space."""
    stages = int(np.diff(networks.first).max(initial=0))
    spans = networks.variables
    variables = int(np.diff(spans).max(initial=0))
    rows = int(np.diff(networks.rows[spans]).max(initial=0))
    entries = int(np.diff(networks.entries[spans]).max(initial=0))
    width = networks.demand_mean.shape[1]

    def ints(count: int) -> IntArray:
        return np.zeros(count, np.int64)

    return Beliefs(
        stages=np.zeros((num_jobs, stages), BELIEF_STAGE),
        jobs=np.zeros(num_jobs, BELIEF_JOB),
        origin=ints(4),
        status=ints(stages),
        actual=ints(stages),
        fraction=np.zeros(stages),
        stack=ints(stages),
        low=ints(variables),
        high=ints(variables),
        dirty=ints(variables),
        root=ints(variables),
        component=ints(variables),
        conditional=np.zeros(entries),
        joint=np.zeros(entries),
        likelihood=np.zeros(rows),
        weight=np.zeros(rows),
        moments=np.zeros((rows, 5)),
        marginal=np.zeros((variables, width)),
        mark=ints(variables),
        queries=ints(variables),
        size=ints(variables),
        offset=ints(variables),
        axis=ints(variables),
        message=np.zeros(MESSAGE),
        product=np.zeros(MESSAGE),
    )


# --------------------------------------------------------------------------------------------------
# Exact posteriors


@compiled
def _focus(networks: Networks, beliefs: Beliefs, application: int) -> None:
    """Make scratch space refer to one application, and forget all evidence."""
    first, last = networks.variables[application], networks.variables[application + 1]
    beliefs.origin[0] = networks.first[application]
    beliefs.origin[1] = first
    beliefs.origin[2] = networks.rows[first]
    beliefs.origin[3] = networks.entries[first]
    for v in range(first, last):
        beliefs.low[v - first] = 0
        beliefs.high[v - first] = networks.states[v] - 1
    for c in range(networks.first[application + 1] - networks.first[application]):
        beliefs.fraction[c] = 1.0


@compiled
def _collect(networks: Networks, beliefs: Beliefs, application: int) -> None:
    """The pass up: multiply the evidence into the buckets that have some in or below them.

    Fills root and dirty, and for dirty buckets conditional, likelihood and moments.
    """
    first, last = networks.variables[application], networks.variables[application + 1]
    low, high, dirty, root = beliefs.low, beliefs.high, beliefs.dirty, beliefs.root
    for v in range(first, last):
        row = 0
        for k in range(networks.separator_of[v], networks.separator_of[v + 1]):
            other = networks.separator[k] - first
            if low[other] != high[other]:
                row = -1
                break
            row += networks.stride[k] * low[other]
        root[v - first] = row
        narrowed = low[v - first] > 0 or high[v - first] < networks.states[v] - 1
        dirty[v - first] = 1 if narrowed else 0
    for v in range(last - 1, first - 1, -1):
        here = v - first
        for k in range(networks.child_of[v], networks.child_of[v + 1]):
            below = networks.child[k] - first
            if dirty[below] == 1 and root[below] < 0:
                dirty[here] = 1
        if dirty[here] == 1 and not (root[here] >= 0 and low[here] == high[here]):
            _collect_bucket(networks, beliefs, v)


@compiled
def _collect_bucket(networks: Networks, beliefs: Beliefs, v: int) -> None:
    here, states = v - beliefs.origin[1], networks.states[v]
    low, high = beliefs.low[here], beliefs.high[here]
    start, end = networks.rows[v], networks.rows[v + 1]
    if beliefs.root[here] >= 0:  # the separator is known: one row is enough
        start, end = start + beliefs.root[here], start + beliefs.root[here] + 1
    best = 0.0
    for row in range(start, end):
        entry = networks.entries[v] + (row - networks.rows[v]) * states
        at = entry - beliefs.origin[3]
        total = 0.0
        for x in range(states):
            value = 0.0
            if low <= x <= high:
                value = networks.table[entry + x]
                if value > 0.0:
                    value *= _below(networks, beliefs, v, entry + x)
            beliefs.conditional[at + x] = value
            total += value
        beliefs.likelihood[row - beliefs.origin[2]] = total
        best = max(best, total)
        if total > 0.0:
            for x in range(states):
                beliefs.conditional[at + x] /= total
    for row in range(start, end):
        if best > 0.0:
            beliefs.likelihood[row - beliefs.origin[2]] /= best
        else:  # impossible evidence: nothing is learned from it
            beliefs.likelihood[row - beliefs.origin[2]] = 1.0
            at = networks.entries[v] + (row - networks.rows[v]) * states - beliefs.origin[3]
            for x in range(low, high + 1):
                beliefs.conditional[at + x] = 1.0 / (high - low + 1)
        _collect_moments(networks, beliefs, v, row)


@compiled
def _below(networks: Networks, beliefs: Beliefs, v: int, entry: int) -> float:
    """Likelihood of the evidence below one entry of the bucket of v."""
    value = 1.0
    for k in range(networks.child_of[v], networks.child_of[v + 1]):
        u = networks.child[k]
        here = u - beliefs.origin[1]
        if beliefs.dirty[here] == 1 and beliefs.root[here] < 0:
            row = networks.rows[u] + networks.up[networks.up_of[u] + entry - networks.entries[v]]
            value *= beliefs.likelihood[row - beliefs.origin[2]]
    return value


@compiled
def _collect_moments(networks: Networks, beliefs: Beliefs, v: int, row: int) -> None:
    """Moments of what remains in and below a bucket, given one row and the evidence below."""
    here, states, stage = v - beliefs.origin[1], networks.states[v], networks.stage[v]
    mean_llm = mean_regular = second_llm = second_both = second_regular = 0.0
    entry = networks.entries[v] + (row - networks.rows[v]) * states
    for x in range(beliefs.low[here], beliefs.high[here] + 1):
        p = beliefs.conditional[entry + x - beliefs.origin[3]]
        if p == 0.0:
            continue
        llm = regular = var_llm = cov = var_regular = 0.0
        if stage >= 0:
            left = beliefs.fraction[stage - beliefs.origin[0]]
            if networks.kind[stage] == 0:
                llm = left * networks.demand_mean[stage, x]
                var_llm = left * left * networks.demand_variance[stage, x]
            else:
                regular = left * networks.demand_mean[stage, x]
                var_regular = left * left * networks.demand_variance[stage, x]
        for k in range(networks.child_of[v], networks.child_of[v + 1]):
            u = networks.child[k]
            if beliefs.root[u - beliefs.origin[1]] >= 0:
                continue
            at = networks.rows[u]
            at += networks.up[networks.up_of[u] + entry + x - networks.entries[v]]
            if beliefs.dirty[u - beliefs.origin[1]] == 1:
                below = beliefs.moments[at - beliefs.origin[2]]
            else:
                below = networks.moments[at]
            llm += below[0]
            regular += below[1]
            var_llm += below[2]
            cov += below[3]
            var_regular += below[4]
        mean_llm += p * llm
        mean_regular += p * regular
        second_llm += p * (var_llm + llm * llm)
        second_both += p * (cov + llm * regular)
        second_regular += p * (var_regular + regular * regular)
    out = beliefs.moments[row - beliefs.origin[2]]
    out[0] = mean_llm
    out[1] = mean_regular
    out[2] = second_llm - mean_llm * mean_llm
    out[3] = second_both - mean_llm * mean_regular
    out[4] = second_regular - mean_regular * mean_regular


@compiled
def _distribute(networks: Networks, beliefs: Beliefs, application: int) -> None:
    """The pass down: the posterior of every variable. Fills weight, joint, marginal, component."""
    first, last = networks.variables[application], networks.variables[application + 1]
    for v in range(first, last):
        here = v - first
        root = beliefs.root[here]
        beliefs.component[here] = here if root >= 0 else beliefs.component[networks.parent[v] - first]
        if root >= 0 and beliefs.low[here] == beliefs.high[here]:
            for x in range(networks.states[v]):
                beliefs.marginal[here, x] = 0.0
            beliefs.marginal[here, beliefs.low[here]] = 1.0
        else:
            _distribute_bucket(networks, beliefs, v)


@compiled
def _distribute_bucket(networks: Networks, beliefs: Beliefs, v: int) -> None:
    here, states = v - beliefs.origin[1], networks.states[v]
    rows = networks.rows[v + 1] - networks.rows[v]
    weight = beliefs.weight[networks.rows[v] - beliefs.origin[2] :]
    for row in range(rows):
        weight[row] = 0.0
    if beliefs.root[here] >= 0:
        weight[beliefs.root[here]] = 1.0
    else:
        p = networks.parent[v]
        above = beliefs.joint[networks.entries[p] - beliefs.origin[3] :]
        for entry in range(networks.up_of[v + 1] - networks.up_of[v]):
            weight[networks.up[networks.up_of[v] + entry]] += above[entry]
    start = networks.entries[v]
    joint = beliefs.joint[start - beliefs.origin[3] :]
    if beliefs.dirty[here] == 1:
        given = beliefs.conditional[start - beliefs.origin[3] :]
    else:
        given = networks.table[start:]
    marginal = beliefs.marginal[here]
    for x in range(states):
        marginal[x] = 0.0
    for row in range(rows):
        entry = row * states
        for x in range(states):
            p_entry = 0.0
            if weight[row] > 0.0:
                p_entry = weight[row] * given[entry + x]
            joint[entry + x] = p_entry
            marginal[x] += p_entry
    total = 0.0
    for x in range(states):
        total += marginal[x]
    if not total > 0.0:  # after impossible evidence: whatever is allowed
        for x in range(beliefs.low[here], beliefs.high[here] + 1):
            marginal[x] = 1.0 / (beliefs.high[here] - beliefs.low[here] + 1)


@compiled
def _quantile(networks: Networks, stage: int, marginal: FloatArray, level: float) -> float:
    """The ``level`` quantile of a stage's demand: of the mixture of its bins, weighted by marginal.

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
            least, most = networks.demand_least[stage, x], networks.demand_most[stage, x]
            if most == least:
                return float(least)
            u = min(1.0, max(0.0, (level - below) / marginal[x]))
            return float(least + (most - least) * u ** networks.demand_shape[stage, x])
        below += marginal[x]
    return float(networks.demand_most[stage, last])


@compiled
def _describe(networks: Networks, stage: int, marginal: FloatArray, out: Table, at: int) -> float:
    """Summarise the posterior of one stage's demand; returns its variance."""
    mean = second = entropy = 0.0
    for x in range(len(marginal)):
        p = marginal[x]
        if p > 0.0:
            value = networks.demand_mean[stage, x]
            mean += p * value
            second += p * (networks.demand_variance[stage, x] + value * value)
            entropy -= p * math.log2(p)
    out["presence"][at] = 1.0 - marginal[0]
    out["demand_s"][at] = mean
    out["entropy_bits"][at] = max(0.0, entropy)
    out["low_s"][at] = _quantile(networks, stage, marginal, networks.levels[0])
    out["high_s"][at] = _quantile(networks, stage, marginal, networks.levels[1])
    return max(0.0, second - mean * mean)


@compiled
def _fill_prior(networks: Networks, beliefs: Beliefs, application: int) -> None:
    """The beliefs before any evidence, and given presence alone."""
    _focus(networks, beliefs, application)
    _collect(networks, beliefs, application)
    _distribute(networks, beliefs, application)
    for c in range(networks.first[application], networks.first[application + 1]):
        v = networks.demand[c]
        marginal = beliefs.marginal[v - beliefs.origin[1], : networks.states[v]]
        networks.prior_variance[c, 0] = _describe(networks, c, marginal, networks.prior, c)
        present = 1.0 - marginal[0]
        marginal[0] = 0.0
        for x in range(1, len(marginal)):
            marginal[x] = marginal[x] / present if present > 0 else 1.0 / (len(marginal) - 1)
        networks.prior_variance[c, 1] = _describe(networks, c, marginal, networks.prior_present, c)


# --------------------------------------------------------------------------------------------------
# What a job shows


@compiled
def _observe(
    state: ClusterState, templates: TemplateTable, networks: Networks, beliefs: Beliefs, job: int
) -> None:
    """What is known of each canonical stage of a job, and how much of it remains."""
    application = state.jobs["application"][job]
    base = networks.first[application]
    count = networks.first[application + 1] - base
    status, actual = beliefs.status, beliefs.actual
    for c in range(count):
        status[c] = ABSENT
        actual[c] = -1
        beliefs.fraction[c] = 0.0
    skipped = 0
    first = state.jobs["first_stage"][job]
    for s in range(first, first + state.jobs["num_stages"][job]):
        if state.stages["visible"][s] == 0:
            continue
        c = state.stages["canonical"][s] - base
        if c < 0 or c >= count:
            skipped += 1
            continue
        actual[c] = s
        tasks = state.stages["num_tasks"][s]
        done = state.stages["completed_tasks"][s]
        if state.stages["kind"][s] != networks.kind[c + base]:
            status[c] = UNKNOWN
            skipped += 1
        elif done == tasks:
            status[c] = COMPLETE
        else:
            status[c] = PRESENT
            beliefs.fraction[c] = (tasks - done) / tasks
    beliefs.jobs["skipped"][job] = skipped
    _mark_undetermined(state, templates, networks, beliefs, job)


@compiled
def _mark_undetermined(
    state: ClusterState, templates: TemplateTable, networks: Networks, beliefs: Beliefs, job: int
) -> None:
    """Hidden stages that a visible unfinished stage may still reveal, directly or in turn."""
    application = state.jobs["application"][job]
    base = networks.first[application]
    status, actual, stack = beliefs.status, beliefs.actual, beliefs.stack
    top = 0
    for c in range(networks.first[application + 1] - base):
        if actual[c] >= 0:
            s = actual[c]
            if state.stages["completed_tasks"][s] < state.stages["num_tasks"][s]:
                top = _push_revealed(templates, beliefs, c + base, base, top)
    while top > 0:
        top -= 1
        top = _push_revealed(templates, beliefs, stack[top] + base, base, top)


@compiled
def _push_revealed(
    templates: TemplateTable, beliefs: Beliefs, stage: int, base: int, top: int
) -> int:
    for k in range(templates.reveals_of[stage], templates.reveals_of[stage + 1]):
        c = templates.reveals[k] - base
        if beliefs.actual[c] < 0 and beliefs.status[c] == ABSENT:
            beliefs.status[c] = UNDETERMINED
            beliefs.fraction[c] = 1.0
            beliefs.stack[top] = c
            top += 1
    return top


@compiled
def _set_evidence(
    state: ClusterState, networks: Networks, beliefs: Beliefs, job: int
) -> None:
    application = state.jobs["application"][job]
    base, first = networks.first[application], networks.variables[application]
    low, high = beliefs.low, beliefs.high
    for v in range(first, networks.variables[application + 1]):
        low[v - first] = 0
        high[v - first] = networks.states[v] - 1
    clamped = 0
    for c in range(networks.first[application + 1] - base):
        status = beliefs.status[c]
        if status == UNDETERMINED or status == UNKNOWN:
            continue
        v, f = networks.demand[c + base] - first, networks.fanout[c + base] - first
        if status == ABSENT:
            high[v] = 0
        elif status == PRESENT:
            low[v] = 1
        else:
            seconds = state.stages["demand"][beliefs.actual[c]] / TICKS_PER_SECOND
            k, outside = _bin(
                networks.demand_least[c + base],
                networks.demand_most[c + base],
                networks.states[v + first],
                seconds,
            )
            low[v] = high[v] = k
            clamped += outside
        if f >= 0:
            low[f] = high[f] = 0
            if status != ABSENT:
                tasks = float(state.stages["num_tasks"][beliefs.actual[c]])
                k, outside = _bin(
                    networks.tasks_least[c + base],
                    networks.tasks_most[c + base],
                    networks.states[f + first],
                    tasks,
                )
                low[f] = high[f] = k
                clamped += outside
    beliefs.jobs["clamped"][job] = clamped


@compiled
def _bin(least: FloatArray, most: FloatArray, states: int, value: float) -> tuple[int, int]:
    """The state of a present value, and 1 if it lies outside of what past jobs had."""
    k = 1
    while k < states - 1 and value > (most[k] + least[k + 1]) / 2:
        k += 1
    outside = 1 if (k == 1 and value < least[1]) or (k == states - 1 and value > most[k]) else 0
    return k, outside


# --------------------------------------------------------------------------------------------------
# Uncertainty reduction


@compiled
def _reduction(
    templates: TemplateTable, networks: Networks, beliefs: Beliefs, job: int, stage: int
) -> float:
    """R of a ready stage (bit s): what its completion tells, times how much that matters.

    ``I(X; Y_1..Y_M) * sum Range(Y_m)`` over the nearest reachable unfinished stages, plus
    ``sum H(presence of Z, fan-out of Z) * Range(Z)`` over the stages it may reveal, where Range
    is the distance between the quantiles of a stage's posterior demand.
    """
    base = beliefs.origin[0]
    found = 0
    ranges = 0.0
    for k in range(networks.reach_of[stage], networks.reach_of[stage + 1]):
        c = networks.reach[k] - base
        if found < networks.reachable and beliefs.status[c] <= PRESENT:
            beliefs.stack[found] = networks.demand[c + base] - beliefs.origin[1]
            found += 1
            ranges += beliefs.stages["high_s"][job, c] - beliefs.stages["low_s"][job, c]
    total = 0.0
    if found > 0 and ranges > 0.0:
        x = networks.demand[stage] - beliefs.origin[1]
        total = _information(networks, beliefs, x, found) * ranges
    if networks.structural == 1:
        for k in range(templates.reveals_of[stage], templates.reveals_of[stage + 1]):
            c = templates.reveals[k] - base
            if beliefs.status[c] == UNDETERMINED:
                high, low = beliefs.stages["high_s"][job, c], beliefs.stages["low_s"][job, c]
                total += _presence_entropy(networks, beliefs, c + base) * (high - low)
    return total


@compiled
def _presence_entropy(networks: Networks, beliefs: Beliefs, stage: int) -> float:
    """Entropy of a stage's presence and number of tasks together, bits."""
    f = networks.fanout[stage]
    if f >= 0:
        marginal = beliefs.marginal[f - beliefs.origin[1], : networks.states[f]]
        return _entropy(marginal)
    absent = beliefs.marginal[networks.demand[stage] - beliefs.origin[1], 0]
    return _plogp(absent) + _plogp(1.0 - absent)


@compiled
def _entropy(probabilities: FloatArray) -> float:
    total = 0.0
    for p in probabilities:
        total += _plogp(p)
    return total


@compiled
def _plogp(p: float) -> float:
    return -p * math.log2(p) if p > 0.0 else 0.0


@compiled
def _information(networks: Networks, beliefs: Beliefs, x: int, found: int) -> float:
    """I(X; Y_1..Y_M | evidence) in bits; the Ys are the first ``found`` variables on the stack."""
    first = beliefs.origin[1]
    top = beliefs.component[x]
    beliefs.mark[:] = 0
    _mark_path(networks, beliefs, x, top)
    last, asked = x, 1
    for k in range(found):
        y = beliefs.stack[k]
        if beliefs.component[y] == top and beliefs.low[y] < beliefs.high[y]:
            _mark_path(networks, beliefs, y, top)
            last = max(last, y)
            asked += 1
    if asked == 1:
        return 0.0
    used = 0
    for v in range(last, top - 1, -1):
        if beliefs.mark[v] > 0:
            used = _message(networks, beliefs, v + first, x, used, asked)
            if used < 0:
                return 0.0
            if beliefs.queries[v] == asked:
                return _joint_information(beliefs, v, x)
    return 0.0


@compiled
def _mark_path(networks: Networks, beliefs: Beliefs, v: int, top: int) -> None:
    """Mark 1 the buckets from a variable up to the root of its tree, and 2 that of a query."""
    u = v
    while beliefs.mark[u] == 0:
        beliefs.mark[u] = 1
        if u == top:
            break
        u = networks.parent[u + beliefs.origin[1]] - beliefs.origin[1]
    beliefs.mark[v] = 2


@compiled
def _message(
    networks: Networks, beliefs: Beliefs, v: int, x: int, used: int, asked: int
) -> int:
    """P(query variables in and below the bucket of v | row), or their joint at the top.

    Written to ``beliefs.message`` from ``used`` on; returns where the free space begins.
    """
    here, states = v - beliefs.origin[1], networks.states[v]
    own = beliefs.mark[here] == 2
    queries, inner, axis = 0, 1, 0
    for k in range(networks.child_of[v], networks.child_of[v + 1]):
        u = networks.child[k] - beliefs.origin[1]
        if beliefs.mark[u] > 0:
            queries += beliefs.queries[u]
            inner *= beliefs.size[u]
            axis = beliefs.axis[u] if beliefs.axis[u] > 0 else axis * beliefs.size[u]
    size = inner
    if own:
        queries += 1
        size *= beliefs.high[here] - beliefs.low[here] + 1
        if here == x:
            axis = inner
    top = queries == asked
    rows = networks.rows[v + 1] - networks.rows[v]
    end = used + size * (1 if top else rows)
    if end > len(beliefs.message):
        return -1
    beliefs.queries[here], beliefs.size[here] = queries, size
    beliefs.axis[here], beliefs.offset[here] = axis, used
    beliefs.message[used:end] = 0.0
    if beliefs.dirty[here] == 1:
        given = beliefs.conditional[networks.entries[v] - beliefs.origin[3] :]
    else:
        given = networks.table[networks.entries[v] :]
    weight = beliefs.weight[networks.rows[v] - beliefs.origin[2] :]
    for row in range(rows):
        if weight[row] == 0.0:
            continue
        out = used if top else used + row * size
        for state in range(beliefs.low[here], beliefs.high[here] + 1):
            p = given[row * states + state]
            if top:
                p *= weight[row]
            if p > 0.0:
                to = out + (state - beliefs.low[here]) * inner if own else out
                _add_product(networks, beliefs, v, row * states + state, p, inner, to)
    return end


@compiled
def _add_product(
    networks: Networks, beliefs: Beliefs, v: int, entry: int, p: float, inner: int, out: int
) -> None:
    """Add p times the outer product of the messages from below one entry of a bucket."""
    product, message = beliefs.product, beliefs.message
    product[0] = p
    length = 1
    for k in range(networks.child_of[v], networks.child_of[v + 1]):
        u = networks.child[k]
        here = u - beliefs.origin[1]
        if beliefs.mark[here] == 0:
            continue
        size = beliefs.size[here]
        start = beliefs.offset[here] + networks.up[networks.up_of[u] + entry] * size
        for i in range(length - 1, -1, -1):
            value = product[i]
            for q in range(size):
                product[i * size + q] = value * message[start + q]
        length *= size
    for q in range(inner):
        message[out + q] += product[q]


@compiled
def _joint_information(beliefs: Beliefs, v: int, x: int) -> float:
    """I(X; the other query variables) from their joint distribution at the bucket of v."""
    size, axis = beliefs.size[v], beliefs.axis[v]
    states = beliefs.high[x] - beliefs.low[x] + 1
    joint = beliefs.message[beliefs.offset[v] : beliefs.offset[v] + size]
    alone = beliefs.product[:states]
    alone[:] = 0.0
    information = total = 0.0
    for block in range(0, size, axis * states):
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
    information += _entropy(alone)
    # With a total of t instead of 1 the sum above is t times (I - log2 t).
    return max(0.0, information / total + math.log2(total))


# --------------------------------------------------------------------------------------------------
# Updating


@compiled
def update(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    mode: int,
) -> None:
    """Update the beliefs of every job in ``state.changed``.

    Parameters
    ----------
    state : of the cluster. What is hidden in it is read in mode ``ORACLE`` only.
    templates, networks : in the order of the bank's applications.
    beliefs : written. A job's stage rows are computed when evidence came, its sums always.
    mode : ``NONE``, ``PRIOR``, ``BAYES`` or ``ORACLE``.
    """
    if mode == NONE:
        return
    for k in range(state.clock["changed"][0]):
        job = state.changed[k]
        evidence = state.jobs["changed"][job] == EVIDENCE
        if mode == ORACLE:
            _update_oracle(state, networks, beliefs, job)
        elif mode == PRIOR:
            _update_prior(state, templates, networks, beliefs, job, evidence)
        else:
            _update_bayes(state, templates, networks, beliefs, job, evidence)


@compiled
def _update_bayes(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    job: int,
    evidence: bool,
) -> None:
    application = state.jobs["application"][job]
    _focus(networks, beliefs, application)
    _observe(state, templates, networks, beliefs, job)
    _set_evidence(state, networks, beliefs, job)
    _collect(networks, beliefs, application)
    if evidence:
        _distribute(networks, beliefs, application)
        for c in range(networks.first[application + 1] - networks.first[application]):
            _describe_stage(networks, beliefs, job, c)
        _reduce_ready(state, templates, networks, beliefs, job, application, BAYES)
    _sum_job(state, networks, beliefs, job)
    _add_moments(networks, beliefs, job, application)


@compiled
def _describe_stage(networks: Networks, beliefs: Beliefs, job: int, c: int) -> None:
    row = beliefs.stages[job]
    status = beliefs.status[c]
    if status <= PRESENT:
        stage = c + beliefs.origin[0]
        v = networks.demand[stage]
        marginal = beliefs.marginal[v - beliefs.origin[1], : networks.states[v]]
        _describe(networks, stage, marginal, row, c)
    else:
        row["presence"][c] = 0.0 if status == ABSENT else 1.0
        row["demand_s"][c] = row["entropy_bits"][c] = 0.0
        row["low_s"][c] = row["high_s"][c] = 0.0
    row["reduction"][c] = 0.0


@compiled
def _reduce_ready(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    job: int,
    application: int,
    mode: int,
) -> None:
    base = networks.first[application]
    for c in range(networks.first[application + 1] - base):
        if beliefs.status[c] != PRESENT:
            continue
        if state.stages["unfinished_parents"][beliefs.actual[c]] > 0:
            continue
        if mode == PRIOR:
            _only_present(networks, beliefs, application, c)
        reduction = _reduction(templates, networks, beliefs, job, c + base)
        beliefs.stages["reduction"][job, c] = reduction


@compiled
def _only_present(networks: Networks, beliefs: Beliefs, application: int, c: int) -> None:
    """Posteriors given no more than that one stage is present."""
    base, first = networks.first[application], networks.variables[application]
    for v in range(first, networks.variables[application + 1]):
        beliefs.low[v - first] = 0
        beliefs.high[v - first] = networks.states[v] - 1
    beliefs.low[networks.demand[c + base] - first] = 1
    if networks.fanout[c + base] >= 0:
        beliefs.low[networks.fanout[c + base] - first] = 1
    _collect(networks, beliefs, application)
    _distribute(networks, beliefs, application)


@compiled
def _update_prior(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    job: int,
    evidence: bool,
) -> None:
    application = state.jobs["application"][job]
    base = networks.first[application]
    _focus(networks, beliefs, application)
    _observe(state, templates, networks, beliefs, job)
    count = networks.first[application + 1] - base
    if evidence:
        for c in range(count):
            _describe_stage(networks, beliefs, job, c)
            if beliefs.status[c] == UNDETERMINED:
                beliefs.stages[job, c] = networks.prior[c + base]
            elif beliefs.status[c] == PRESENT:
                beliefs.stages[job, c] = networks.prior_present[c + base]
        _reduce_ready(state, templates, networks, beliefs, job, application, PRIOR)
    _sum_job(state, networks, beliefs, job)
    row = beliefs.jobs
    for c in range(count):
        if beliefs.status[c] <= PRESENT:
            variance = networks.prior_variance[c + base, beliefs.status[c]]
            variance *= beliefs.fraction[c] ** 2
            if networks.kind[c + base] == 0:
                row["variance_llm"][job] += variance
            else:
                row["variance_regular"][job] += variance


@compiled
def _sum_job(state: ClusterState, networks: Networks, beliefs: Beliefs, job: int) -> None:
    """Means and intervals of what remains of a job; its variances are left to be added."""
    application = state.jobs["application"][job]
    base = networks.first[application]
    row, stages = beliefs.jobs, beliefs.stages
    row["prior_llm_s"][job] = networks.prior_job[application, 0]
    row["prior_regular_s"][job] = networks.prior_job[application, 1]
    row["llm_s"][job] = row["low_llm_s"][job] = row["high_llm_s"][job] = 0.0
    row["regular_s"][job] = row["low_regular_s"][job] = row["high_regular_s"][job] = 0.0
    row["variance_llm"][job] = row["covariance"][job] = row["variance_regular"][job] = 0.0
    for c in range(networks.first[application + 1] - base):
        left = beliefs.fraction[c]
        if left == 0.0:
            continue
        mean = left * stages["demand_s"][job, c]
        low, high = left * stages["low_s"][job, c], left * stages["high_s"][job, c]
        _add_demand(row, job, networks.kind[c + base], mean, low, high, 0.0)
    if row["skipped"][job] > 0:
        _add_skipped(state, networks, beliefs, job)


@compiled
def _add_demand(
    row: Table, job: int, kind: int, mean: float, low: float, high: float, variance: float
) -> None:
    if kind == 0:
        row["llm_s"][job] += mean
        row["low_llm_s"][job] += low
        row["high_llm_s"][job] += high
        row["variance_llm"][job] += variance
    else:
        row["regular_s"][job] += mean
        row["low_regular_s"][job] += low
        row["high_regular_s"][job] += high
        row["variance_regular"][job] += variance


@compiled
def _add_skipped(state: ClusterState, networks: Networks, beliefs: Beliefs, job: int) -> None:
    """Visible unfinished stages that no past job had count as so many average tasks."""
    application = state.jobs["application"][job]
    base, end = networks.first[application], networks.first[application + 1]
    first = state.jobs["first_stage"][job]
    for s in range(first, first + state.jobs["num_stages"][job]):
        if state.stages["visible"][s] == 0:
            continue
        c, kind = state.stages["canonical"][s], state.stages["kind"][s]
        if base <= c < end and networks.kind[c] == kind:
            continue
        left = state.stages["num_tasks"][s] - state.stages["completed_tasks"][s]
        _add_demand(
            beliefs.jobs,
            job,
            kind,
            left * networks.task_mean[application, kind],
            left * networks.task_low[application, kind],
            left * networks.task_high[application, kind],
            left * networks.task_variance[application, kind],
        )


@compiled
def _add_moments(networks: Networks, beliefs: Beliefs, job: int, application: int) -> None:
    """Variances of what remains: the trees that the evidence leaves are independent."""
    row = beliefs.jobs
    first, last = networks.variables[application], networks.variables[application + 1]
    for v in range(first, last):
        here = v - first
        if beliefs.root[here] < 0 or beliefs.low[here] == beliefs.high[here]:
            continue
        at = networks.rows[v] + beliefs.root[here]
        if beliefs.dirty[here] == 1:
            moments = beliefs.moments[at - beliefs.origin[2]]
        else:
            moments = networks.moments[at]
        row["variance_llm"][job] += max(0.0, moments[2])
        row["covariance"][job] += moments[3]
        row["variance_regular"][job] += max(0.0, moments[4])


@compiled
def _update_oracle(
    state: ClusterState, networks: Networks, beliefs: Beliefs, job: int
) -> None:
    """The hidden truth: what really remains, without uncertainty."""
    application = state.jobs["application"][job]
    base, end = networks.first[application], networks.first[application + 1]
    row = beliefs.jobs[job]
    out = beliefs.stages[job]
    for c in range(len(out)):
        out["presence"][c] = out["demand_s"][c] = out["entropy_bits"][c] = 0.0
        out["low_s"][c] = out["high_s"][c] = out["reduction"][c] = 0.0
    left = np.zeros(2)
    whole = np.zeros(2)
    first = state.jobs["first_stage"][job]
    for s in range(first, first + state.jobs["num_stages"][job]):
        kind = state.stages["kind"][s]
        start = state.stages["first_task"][s]
        for t in range(start, start + state.stages["num_tasks"][s]):
            seconds = state.tasks["demand"][t] / TICKS_PER_SECOND
            whole[kind] += seconds
            end_time = state.tasks["end"][t]
            if end_time < 0 or end_time > state.clock["now"][0]:
                left[kind] += seconds
        c = state.stages["canonical"][s]
        if base <= c < end:
            out["presence"][c - base] = 1.0
            if state.stages["completed_tasks"][s] < state.stages["num_tasks"][s]:
                seconds = state.stages["demand"][s] / TICKS_PER_SECOND
                out["demand_s"][c - base] = seconds
                out["low_s"][c - base] = out["high_s"][c - base] = seconds
    row["prior_llm_s"], row["prior_regular_s"] = whole[0], whole[1]
    row["llm_s"], row["regular_s"] = left[0], left[1]
    row["low_llm_s"] = row["high_llm_s"] = left[0]
    row["low_regular_s"] = row["high_regular_s"] = left[1]
    row["variance_llm"] = row["covariance"] = row["variance_regular"] = 0.0
    row["skipped"] = row["clamped"] = 0
