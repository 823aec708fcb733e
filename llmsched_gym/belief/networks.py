"""The fitted networks as flat tables, and room for what is believed of every job.

Variables are eliminated from the last to the first (in topological order). Variable v then owns a
*bucket*: itself and its *separator*, the earlier variables it is still joined with. The network is
the product of ``P(v | separator)`` over the buckets, which hang on each other in a tree (the bucket
of v on that of the last variable of its separator).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from llmsched_gym.belief.profile import BeliefProfile, BeliefSettings, Bins, Network
from llmsched_gym.belief.work import WorkRates
from llmsched_gym.workload.template import Template

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Table = NDArray[np.void]

NONE, PRIOR, BAYES, ORACLE = 0, 1, 2, 3  # modes: what beliefs are made of
GITTINS, REDUCTION = 1, 2  # bits: what takes so long that it is worked out only if it is wanted

UNDETERMINED, PRESENT, COMPLETE, ABSENT, UNKNOWN = 0, 1, 2, 3, 4  # status of a stage

BELIEF_STAGE = np.dtype(
    [
        ("presence", np.float64),  # probability that the stage exists
        ("demand_s", np.float64),  # mean of its whole demand; absent counts 0, complete is 0
        ("work_s", np.float64),  # mean of its whole work on what it runs on, likewise
        ("entropy_bits", np.float64),  # of its demand variable, "absent" included
        ("low_s", np.float64),  # quantiles of its whole demand
        ("high_s", np.float64),
        ("reduction", np.float64),  # R, bit s; 0 unless it is wanted, and the stage is ready
    ]
)

BELIEF_JOB = np.dtype(
    [
        ("prior_llm_s", np.float64),  # mean demand of a whole job, before any evidence
        ("prior_regular_s", np.float64),
        ("llm_s", np.float64),  # E[rem], what remains
        ("regular_s", np.float64),  # the work of regular executors, too
        ("work_llm_s", np.float64),  # engine work of what remains
        ("prior_work_llm_s", np.float64),  # of a whole job, before any evidence
        ("variance_llm", np.float64),  # of what remains, s^2
        ("covariance", np.float64),  # of its LLM part with its regular part, s^2
        ("variance_regular", np.float64),
        ("low_llm_s", np.float64),  # sums over the unfinished stages' quantiles
        ("low_regular_s", np.float64),
        ("high_llm_s", np.float64),
        ("high_regular_s", np.float64),
        ("gittins_s", np.float64),  # Gittins index of what remains; 0 unless it is wanted
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
            *("stages", "variables", "rows", "entries", "cells"),
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
        ("work", np.float64),  # work per second of demand
        ("job_work_s", np.float64),  # work of all tasks of a job, before any evidence
    ]
)

NETWORK_STAGE = np.dtype(
    [
        ("kind", np.int64),
        ("demand", np.int64),  # variable
        ("fanout", np.int64),  # variable, -1 if none
        ("prompt", np.int64),  # variable, -1 if none
        ("cell", np.int64),  # first of its rows in the table of cells
        ("cells", np.int64),  # states of its fan-out, 1 if the number of tasks does not vary
        ("stride", np.int64),  # of its fan-out in the rows of its demand's bucket
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
        ("variance", np.float64),  # once the number of tasks is known
        ("tasks", np.float64),  # mean number of tasks
        ("work", np.float64),  # work per second of the demand
        ("least_tasks", np.float64),  # of the fan-out
        ("most_tasks", np.float64),
        ("least_tokens", np.float64),  # of the prompt, mean per task
        ("most_tokens", np.float64),
    ]
)

VARIABLE = np.dtype(
    [
        ("states", np.int64),
        ("stage", np.int64),  # whose demand it is, -1 for a fan-out or a prompt
        ("parent", np.int64),  # the bucket it hangs on, -1 for a root
        ("row", np.int64),  # first row of its bucket: a row is a state of the separator
        ("number", np.int64),  # the same, counted over all applications
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
        ("status", np.int64),  # inference.UNDETERMINED, ...
        ("actual", np.int64),  # the job's stage, -1 if hidden
        ("left", np.float64),  # part of the demand that remains
    ]
)

VARIABLE_STATE = np.dtype(
    [
        ("low", np.int64),  # evidence
        ("high", np.int64),
        ("dirty", np.int64),  # 1: evidence in or below the bucket
        ("count", np.int64),  # rows that evidence leaves possible
        ("root", np.int64),  # 1: only one, so that the bucket hangs on nothing any more
        ("component", np.int64),  # the root of the tree it is in
        ("mark", np.int64),  # 1: between the variables of a question, 2: one of them; see gittins
        ("asked", np.int64),  # how many of them are in or below the bucket
        ("size", np.int64),  # how many states they have together
        ("axis", np.int64),  # stride of the states of the one asked about
        ("message", np.int64),  # where the bucket's message begins
    ]
)

CASE = np.dtype([("p", np.float64), ("one", np.int64), ("other", np.int64)])  # rows of transforms

MOST_ROWS = 1 << 20  # of all networks, a KiB each
MESSAGES = 1 << 20  # floats for the messages of one mutual information

# Distributions of what remains, for the Gittins index. They are kept as generating functions
# E[z^(X / step)], which independent parts multiply and mixtures add up, at points z on a circle.
GRID = 128  # grid points 0, step, 2 step, ...
KEPT = 2048  # transforms that a scratch keeps from update to update
LEVELS = 6  # of steps, each twice the one before: the last reaches the most a job may take
DECAY = 1e-6  # |z|^GRID, the weight with which what is beyond the grid is mistaken for what is not


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
    cells: FloatArray  # [cells, most states] mean demand by fan-out and demand state, s
    variables: Table  # VARIABLE [V]
    table: FloatArray  # [entries] P(variable | separator) without evidence below
    moments: FloatArray  # [rows, 5] of the demand in and below a bucket, without evidence
    steps: FloatArray  # [A, LEVELS] s
    powers: FloatArray  # [GRID + 1, 2, GRID / 2] z^0, z^1, ...: of a value on the grid
    waves: FloatArray  # [2, 2, 8, 8] cosines, sines: from a generating function
    back: FloatArray  # [2, 2, GRID / 2] ... back to probabilities
    marginal: FloatArray  # [C, most states] of the demand before any evidence
    means: FloatArray  # [C, most states] demand given its state alone, s
    separators: Table  # SEPARATOR
    children: IntArray
    up: IntArray
    reach: IntArray


@register_jitable
def select(networks: Networks, application: int) -> Networks:
    """One application's part of every table."""
    start, end = networks.applications[application], networks.applications[application + 1]
    return Networks(
        settings=networks.settings,
        applications=networks.applications,
        tasks=networks.tasks,
        stages=networks.stages[start["stages"] : end["stages"]],
        prior=networks.prior[start["stages"] : end["stages"]],
        bins=networks.bins[start["stages"] : end["stages"]],
        cells=networks.cells[start["cells"] : end["cells"]],
        variables=networks.variables[start["variables"] : end["variables"]],
        table=networks.table[start["entries"] : end["entries"]],
        moments=networks.moments[start["rows"] : end["rows"]],
        steps=networks.steps[application : application + 1],
        powers=networks.powers,
        waves=networks.waves,
        back=networks.back,
        marginal=networks.marginal[start["stages"] : end["stages"]],
        means=networks.means[start["stages"] : end["stages"]],
        separators=networks.separators[start["separators"] : end["separators"]],
        children=networks.children[start["children"] : end["children"]],
        up=networks.up[start["up"] : end["up"]],
        reach=networks.reach[start["reach"] : end["reach"]],
    )


class Scratch(NamedTuple):
    """Working space for one application at a time; one per thread."""

    stages: Table  # STAGE_STATE
    variables: Table  # VARIABLE_STATE
    conditional: FloatArray  # [entries] P(variable | separator, evidence below)
    joint: FloatArray  # [entries] P(variable, separator | evidence)
    rows: IntArray  # [rows] the possible rows of each bucket
    likelihood: FloatArray  # [rows] P(evidence in and below | separator), scaled
    weight: FloatArray  # [rows] P(separator | evidence)
    moments: FloatArray  # [rows, 5] of what remains in and below the bucket
    transforms: FloatArray  # [rows and more, 2, GRID / 2] its generating function, Re and Im
    cases: Table  # CASE [most states] what one row of a bucket is a mixture of
    kept: FloatArray  # [KEPT, 2, GRID / 2] of rows without evidence below, from earlier updates
    kept_of: IntArray  # [KEPT] their numbers among those of all applications and levels, or -1
    waves: FloatArray  # [2, GRID / 2] between generating function and probabilities
    mass: FloatArray  # [GRID] probabilities
    marginal: FloatArray  # [variables, most states]
    means: FloatArray  # [stages, most states] demand given its state, s
    squares: FloatArray  # its second moment, s^2
    stack: IntArray
    below: IntArray
    messages: FloatArray
    product: FloatArray


class Beliefs(NamedTuple):
    """What is believed of every job."""

    stages: Table  # BELIEF_STAGE [jobs, most canonical stages of an application]
    jobs: Table  # BELIEF_JOB [jobs]
    scratch: Scratch


def flatten(
    profile: BeliefProfile,
    applications: Sequence[str],
    rates: Mapping[str, WorkRates] | None = None,
) -> Networks:
    """Flat tables of the networks of the given applications, in that order.

    Without ``rates`` work is demand at batch size 1. What inference computes without evidence
    (priors, marginals) is still zero.

    Raises
    ------
    ValueError
        for so many stage names that the tables would not fit in memory.
    """
    parts = [
        _compile(profile.networks[name], profile.templates[name])
        for name in applications
        if name in profile.networks
    ]
    width = max((len(bins) for part in parts for row in part["bins"] for bins in row), default=1)
    starts = _starts([name in profile.networks for name in applications], parts)

    def joined(field: str, empty: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.concatenate([part[field] for part in parts] or [empty]))

    bins = _bin_table([row for part in parts for row in part["bins"]], width)
    bins["work"] = _rates_of_bins(profile, applications, rates, width)
    most_s = [
        bins["most_s"][start:end].max(axis=1, initial=0.0).sum()
        for start, end in pairwise(starts["stages"])
    ]
    moments = joined("rows", np.zeros((0, 5)))
    _check_rows(len(moments), len(bins))
    powers, waves, back = _circle()
    return Networks(
        settings=_settings_table(profile.settings),
        applications=starts,
        tasks=_task_table(profile, applications, rates),
        stages=joined("stages", np.zeros(0, NETWORK_STAGE)),
        prior=np.zeros((len(bins), 2), BELIEF_STAGE),
        bins=bins,
        cells=_padded([row for part in parts for row in part["cells"]], width),
        variables=_numbered(joined("variables", np.zeros(0, VARIABLE)), starts),
        table=joined("entries", np.zeros(0)),
        moments=moments,
        steps=_steps(np.array(most_s)),
        powers=powers,
        waves=waves,
        back=back,
        marginal=np.zeros((len(bins), width)),
        means=np.zeros((len(bins), width)),
        separators=joined("separators", np.zeros(0, SEPARATOR)),
        children=joined("children", np.zeros(0, np.int64)),
        up=joined("up", np.zeros(0, np.int64)),
        reach=joined("reach", np.zeros(0, np.int64)),
    )


def _settings_table(settings: BeliefSettings) -> Table:
    row = settings.low, settings.high, settings.reachable, settings.structural
    return np.array([row], SETTINGS)


def _starts(known: Sequence[bool], parts: Sequence[dict[str, Any]]) -> Table:
    """Where the parts of the applications begin, and end: those that are not known have none."""
    starts = np.zeros(len(known) + 1, APPLICATION)
    for field in APPLICATION.names or ():
        lengths = np.zeros(len(known), np.int64)
        lengths[np.array(known, bool)] = [len(part[field]) for part in parts]
        starts[field][1:] = np.cumsum(lengths)
    return starts


def _numbered(variables: Table, starts: Table) -> Table:
    """The variables, with the rows of all applications counted."""
    first = np.repeat(starts["rows"][:-1], np.diff(starts["variables"]))
    variables["number"] = variables["row"] + first
    return variables


def _check_rows(rows: int, stages: int) -> None:
    if rows > MOST_ROWS:
        raise ValueError(
            f"belief: past jobs have {stages} stage names, and their networks {rows} rows, more "
            f"than {MOST_ROWS}; choose fewer applications, or belief=none"
        )


def _task_table(
    profile: BeliefProfile, applications: Sequence[str], rates: Mapping[str, WorkRates] | None
) -> Table:
    table = np.zeros((len(applications), 2), TASKS)
    for row, name in zip(table, applications, strict=True):
        tasks = profile.tasks.get(name, profile.tasks[""])
        row["mean_s"], row["variance"] = tasks.mean, tasks.variance
        row["low_s"], row["high_s"], row["job_s"] = tasks.low, tasks.high, tasks.per_job
        row["work"] = 1.0 if rates is None else rates.get(name, rates[""]).tasks
        row["job_work_s"] = row["work"] * row["job_s"]
    return table


def _rates_of_bins(
    profile: BeliefProfile,
    applications: Sequence[str],
    rates: Mapping[str, WorkRates] | None,
    width: int,
) -> FloatArray:
    """Work per second of demand in each bin of each stage: [C, width]."""
    known = [name for name in applications if name in profile.networks]
    if rates is None:
        return np.ones((sum(len(profile.networks[name].demand) for name in known), width))
    return _padded([row for name in known for row in rates[name].stages], width)


def _bin_table(stages: Sequence[tuple[Bins, Bins, Bins]], width: int) -> Table:
    """The bins of the demand, of the fan-out and of the prompt of each stage."""
    table = np.zeros((len(stages), width), BIN)
    for row, (demand, tasks, prompt) in zip(table, stages, strict=True):
        states = slice(0, len(demand))
        row["least_s"][states], row["mean_s"][states] = demand.least, demand.mean
        row["most_s"][states], row["variance"][states] = demand.most, demand.variance
        row["tasks"][states] = demand.tasks
        states = slice(0, len(tasks))
        row["least_tasks"][states], row["most_tasks"][states] = tasks.least, tasks.most
        states = slice(0, len(prompt))
        row["least_tokens"][states], row["most_tokens"][states] = prompt.least, prompt.most
    return table


def _steps(most_s: FloatArray) -> FloatArray:
    """Grid steps [A, LEVELS] such that the last grid holds the most a job may take, in seconds."""
    coarsest = np.maximum(most_s, np.finfo(np.float64).tiny * 2**LEVELS) / (GRID - 1)
    return coarsest[:, None] / 2.0 ** np.arange(LEVELS - 1, -1, -1)


def _circle() -> tuple[FloatArray, FloatArray, FloatArray]:
    """The tables ``powers``, ``waves`` and ``back`` of :class:`Networks`.

    A generating function ``sum_j p_j z^j`` is kept at ``z = r exp(-i angle)``, where the angles
    are 3, 7, 11, ... times ``pi / GRID`` and ``r^GRID = DECAY``; the conjugates complete the circle
    of odd multiples. Fourier's sum over it gives ``p_j - DECAY p_(j + GRID) + ...`` back.

    Over these 64 = 8 x 8 points alone it is a complex sum whose real part is the first half of the
    probabilities, and the imaginary part the second. It is made of two steps of 8 points:
    ``waves`` are the factors of both, and those between them; ``back`` turns by the 3, and undoes
    r.
    """
    angle = np.pi * (4 * np.arange(GRID // 2) + 3) / GRID
    power = np.arange(GRID + 1)
    size = DECAY ** (power / GRID)
    turn = np.outer(power, angle)
    powers = size[:, None, None] * np.stack([np.cos(turn), -np.sin(turn)], axis=1)
    eighths = np.outer(np.arange(8), np.arange(8)) * 2 * np.pi / 8
    waves = np.array([[np.cos(wave), np.sin(wave)] for wave in (eighths, eighths / 8)])
    more = 3 * np.pi / GRID * np.arange(GRID // 2)
    scale = (2 / GRID / size[:GRID]).reshape(2, 1, GRID // 2)
    back = scale * np.array([[np.cos(more), -np.sin(more)], [np.sin(more), np.cos(more)]])
    return powers, waves, back


def _padded(rows: list[FloatArray], width: int) -> FloatArray:
    return np.array([np.pad(row, (0, width - len(row))) for row in rows]).reshape(-1, width)


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
    reach = _reachable(network)
    cells = [_cells(network, stage) for stage in range(len(network.demand))]

    stages = np.zeros(len(network.demand), NETWORK_STAGE)
    stages["kind"] = template.kinds
    stages["demand"], stages["fanout"] = network.demand, network.fanout
    stages["prompt"] = network.prompt
    stages["cell"], stages["cells"] = _ranges(cells)[0], [len(rows) for rows in cells]
    stages["stride"] = [
        dict(zip(separators[v], strides[v], strict=True))[f] if len(rows) > 1 else 1
        for v, f, rows in zip(network.demand, network.fanout, cells, strict=True)
    ]
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
        "bins": list(
            zip(network.demand_bins, network.fanout_bins, network.prompt_bins, strict=True)
        ),
        "cells": [row for rows in cells for row in rows],
        "rows": _static_moments(network, stages, stage_of, cells, tables, children, maps),
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


def _reachable(network: Network) -> list[list[int]]:
    """Per stage, those whose demand a directed path leads to from its demand, nearest first.

    Length is counted in steps from stage to stage: a stage's fan-out and its demand count as one.
    No path leads through prompts: what they tell is seen once they are, whatever ran before.
    """
    owner = {int(v): s for s, v in enumerate(network.demand)}
    owner |= {int(v): s for s, v in enumerate(network.fanout) if v >= 0}
    children: list[list[int]] = [[] for _ in network.parents]
    for parent, child in network.edges:
        if parent in owner and child in owner:
            children[parent].append(child)

    def reached(start: int) -> list[int]:
        distance = {start: 0}
        queue = deque([start])
        while queue:
            variable = queue.popleft()
            for child in children[variable]:
                step = int(owner[child] != owner[variable])
                if distance[variable] + step < distance.get(child, len(owner) + 1):
                    distance[child] = distance[variable] + step
                    (queue.append if step else queue.appendleft)(child)
        found = [(d, owner[v]) for v, d in distance.items() if network.demand[owner[v]] == v]
        return [stage for _, stage in sorted(found) if stage != owner[start]]

    return [reached(int(variable)) for variable in network.demand]


def _cells(network: Network, stage: int) -> FloatArray:
    """A stage's mean demand in each bin: [states of its fan-out, or 1; states of its demand]."""
    bins = network.demand_bins[stage]
    if network.fanout[stage] < 0 or len(network.fanout_bins[stage]) <= 2:
        return bins.mean[None]
    return bins.given(network.fanout_bins[stage].mean)


def _static_moments(
    network: Network,
    stages: Table,
    stage_of: IntArray,
    cells: list[FloatArray],
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
            own = stages[stage]
            fanout = np.arange(len(table)) // own["stride"] % own["cells"]
            below[..., own["kind"]] = cells[stage][fanout]
            below[..., 2 + 2 * own["kind"]] = network.demand_bins[stage].variance
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
    most = int(np.diff(networks.applications["stages"]).max(initial=0))
    return Beliefs(
        np.zeros((num_jobs, most), BELIEF_STAGE),
        np.zeros(num_jobs, BELIEF_JOB),
        new_scratch(networks),
    )


def new_scratch(networks: Networks) -> Scratch:
    """Working space for the application that needs the most."""
    most = {
        field: int(np.diff(networks.applications[field]).max(initial=0))
        for field in ("stages", "variables", "rows", "entries")
    }
    width = networks.bins.shape[1]
    return Scratch(
        stages=np.zeros(most["stages"], STAGE_STATE),
        variables=np.zeros(most["variables"], VARIABLE_STATE),
        conditional=np.zeros(most["entries"]),
        joint=np.zeros(most["entries"]),
        rows=np.zeros(most["rows"], np.int64),
        likelihood=np.zeros(most["rows"]),
        weight=np.zeros(most["rows"]),
        moments=np.zeros((most["rows"], 5)),
        transforms=_transforms(most["rows"] + 2 * width + 2),
        cases=np.zeros(width, CASE),
        kept=np.zeros((KEPT, 2, GRID // 2)),
        kept_of=np.full(KEPT, -1),
        waves=np.zeros((2, GRID // 2)),
        mass=np.zeros(GRID),
        marginal=np.zeros((most["variables"], width)),
        means=np.zeros((most["stages"], width)),
        squares=np.zeros((most["stages"], width)),
        stack=np.zeros(max(most["stages"], int(networks.settings["reachable"][0])), np.int64),
        below=np.zeros(most["variables"], np.int64),
        messages=np.zeros(MESSAGES),
        product=np.zeros(MESSAGES),
    )


def _transforms(count: int) -> FloatArray:
    """Zeros, the last but one that of 0 seconds."""
    table = np.zeros((count, 2, GRID // 2))
    table[-2, 0] = 1.0
    return table
