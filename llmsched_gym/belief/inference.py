"""Exact posteriors of running jobs from the compiled networks, in microseconds.

One pass up the tree of buckets multiplies the evidence in, one pass down it reads the posteriors
off. A variable without evidence in or below its bucket keeps its static table, and where evidence
fixes a whole separator the tree falls apart: only the part of a job that is still uncertain costs
time.

Evidence is an interval of states per variable: absent is [0, 0], present [1, K], a value [k, k].
Entropies and mutual information are in bits, times in seconds at batch size 1.

All kernels live in this module, because numba's cache does not notice an edited callee elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from numba.extending import register_jitable

from llmsched_gym.belief.networks import (
    Beliefs,
    FloatArray,
    IntArray,
    Networks,
    Scratch,
    Table,
    flatten,
    new_scratch,
)
from llmsched_gym.belief.profile import BeliefProfile
from llmsched_gym.cluster.state import (
    EVIDENCE,
    STARTED,
    TICKS_PER_SECOND,
    ClusterState,
)
from llmsched_gym.compiled import compiled
from llmsched_gym.workload.template import TemplateTable

kernel = partial(compiled, _nrt=False)

NONE, PRIOR, BAYES, ORACLE = 0, 1, 2, 3

UNDETERMINED, PRESENT, COMPLETE, ABSENT, UNKNOWN = 0, 1, 2, 3, 4  # status of a stage


def compile_profile(profile: BeliefProfile, applications: Sequence[str]) -> Networks:
    """Flat tables of the networks of the given applications, in that order.

    Stages are numbered like those of ``template_table(applications, profile.templates)``. An
    application without past jobs has none; its jobs are judged by the tasks of all applications.
    """
    networks = flatten(profile, applications)
    scratch = new_scratch(networks)
    for application, name in enumerate(applications):
        if name in profile.networks:
            net = _select(networks, application)
            _fill_prior(net, scratch)
            _fill_transforms(net, scratch)
            for kind in (0, 1):
                mine = net.stages["kind"] == kind
                demand = net.prior["demand_s"][mine, 0].sum()
                networks.tasks[application, kind]["job_s"] = demand
    return networks


@register_jitable
def _select(networks: Networks, application: int) -> Networks:
    """One application's part of every table."""
    start, end = networks.applications[application], networks.applications[application + 1]
    levels = networks.steps.shape[1]
    return Networks(
        networks.settings,
        networks.applications,
        networks.tasks,
        networks.stages[start["stages"] : end["stages"]],
        networks.prior[start["stages"] : end["stages"]],
        networks.bins[start["stages"] : end["stages"]],
        networks.cells[start["cells"] : end["cells"]],
        networks.variables[start["variables"] : end["variables"]],
        networks.table[start["entries"] : end["entries"]],
        networks.moments[start["rows"] : end["rows"]],
        networks.transforms[start["rows"] * levels : end["rows"] * levels],
        networks.steps[application : application + 1],
        networks.powers,
        networks.waves,
        networks.scale,
        networks.marginal[start["stages"] : end["stages"]],
        networks.means[start["stages"] : end["stages"]],
        networks.separators[start["separators"] : end["separators"]],
        networks.children[start["children"] : end["children"]],
        networks.up[start["up"] : end["up"]],
        networks.reach[start["reach"] : end["reach"]],
    )


# --- Exact posteriors -------------------------------------------------------------------------
# Kernels take their arrays out of the named tuples once: numba counts references at every access.


@kernel
def _forget(net: Networks, scratch: Scratch) -> None:
    """No evidence."""
    variables, work = net.variables, scratch.variables
    for v in range(len(variables)):
        work[v]["low"], work[v]["high"] = 0, variables[v]["states"] - 1


@kernel
def _trace(net: Networks, scratch: Scratch) -> None:
    """Where evidence reaches: the possible rows of every bucket, its component, whether dirty."""
    variables, separators = net.variables, net.separators
    known, work, rows = scratch.stages, scratch.variables, scratch.rows
    for v in range(len(variables)):
        own, here = variables[v], work[v]
        first, count = own["row"], 1
        rows[first] = 0
        for k in range(own["separator"], own["end_separator"]):
            other, stride = work[separators[k]["variable"]], separators[k]["stride"]
            span = other["high"] - other["low"] + 1
            for i in range(count - 1, -1, -1):
                row = rows[first + i] + stride * other["low"]
                for state in range(span - 1, -1, -1):
                    rows[first + i * span + state] = row + stride * state
            count *= span
        here["count"], here["root"] = count, 1 if count == 1 else 0
        here["component"] = v if count == 1 else work[own["parent"]]["component"]
        here["dirty"] = 1 if here["low"] > 0 or here["high"] < own["states"] - 1 else 0
        if own["stage"] >= 0 and known[own["stage"]]["status"] == UNKNOWN:
            here["dirty"] = 1  # without evidence, but nothing of it remains
    for v in range(len(variables) - 1, -1, -1):
        if work[v]["dirty"] == 1 and work[v]["root"] == 0:
            work[variables[v]["parent"]]["dirty"] = 1


@kernel
def _settled(here: Table) -> bool:
    """Whether evidence fixes a bucket's variable and its separator: nothing is left to compute."""
    return bool(here["root"] == 1 and here["low"] == here["high"])


@kernel
def _collect(net: Networks, scratch: Scratch) -> None:
    """The pass up: multiply the evidence into the buckets that have some in or below them."""
    variables, table, children, up = net.variables, net.table, net.children, net.up
    work, rows = scratch.variables, scratch.rows
    conditional, likelihood = scratch.conditional, scratch.likelihood
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["dirty"] == 0 or _settled(here):
            continue
        base, low, high = own["entry"], here["low"], here["high"]
        for i in range(here["count"]):
            row = rows[own["row"] + i] * own["states"]
            for entry in range(row + low, row + high + 1):
                conditional[base + entry] = table[base + entry]
        for k in range(own["child"], own["end_child"]):
            u = children[k]
            if work[u]["dirty"] == 0 or work[u]["root"] == 1:
                continue
            below, first = variables[u]["up"], variables[u]["row"]
            for i in range(here["count"]):
                row = rows[own["row"] + i] * own["states"]
                for entry in range(row + low, row + high + 1):
                    conditional[base + entry] *= likelihood[first + up[below + entry]]
        _normalise(own, here, rows, conditional, likelihood)


@kernel
def _normalise(
    own: Table, here: Table, rows: IntArray, conditional: FloatArray, likelihood: FloatArray
) -> None:
    """Turn the products in a bucket into conditional probabilities and the rows' likelihoods."""
    first, low, high = own["row"], here["low"], here["high"]
    best = 0.0
    for i in range(here["count"]):
        row = rows[first + i]
        entry = own["entry"] + row * own["states"]
        total = 0.0
        for x in range(low, high + 1):
            total += conditional[entry + x]
        likelihood[first + row] = total
        best = max(best, total)
        if total > 0.0:
            for x in range(low, high + 1):
                conditional[entry + x] /= total
    for i in range(here["count"]):
        row = rows[first + i]
        if best > 0.0:
            likelihood[first + row] /= best
            continue
        likelihood[first + row] = 1.0  # impossible evidence: nothing is learned from it
        for x in range(low, high + 1):
            conditional[own["entry"] + row * own["states"] + x] = 1.0 / (high - low + 1)


@kernel
def _collect_moments(net: Networks, scratch: Scratch) -> None:
    """Moments of what remains in and below each bucket that evidence reaches, row by row."""
    variables, stages, bins, cells = net.variables, net.stages, net.bins, net.cells
    children, up, static = net.children, net.up, net.moments
    known, work, conditional = scratch.stages, scratch.variables, scratch.conditional
    moments, means, rows = scratch.moments, scratch.means, scratch.rows
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["dirty"] == 0 or _settled(here):
            continue
        stage = own["stage"]
        left = known[stage]["left"] if stage >= 0 else 0.0
        for i in range(here["count"]):
            row = rows[own["row"] + i]
            cell = _cell(stages, known, stage, row)
            m0 = m1 = m2 = m3 = m4 = 0.0
            for x in range(here["low"], here["high"] + 1):
                entry = row * own["states"] + x
                p = conditional[own["entry"] + entry]
                if p == 0.0:
                    continue
                e0 = e1 = e2 = e3 = e4 = 0.0
                if left > 0.0:
                    mean = left * means[stage, x] if cell < 0 else cells[cell, x]
                    variance = left * left * bins[stage, x]["variance"]
                    if stages[stage]["kind"] == 1:
                        e1, e4 = mean, variance
                    else:
                        e0, e2 = mean, variance
                for k in range(own["child"], own["end_child"]):
                    u = children[k]
                    if work[u]["root"] == 1:
                        continue
                    at = variables[u]["row"] + up[variables[u]["up"] + entry]
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


@kernel
def _cell(stages: Table, known: Table, c: int, row: int) -> int:
    """Where a stage's mean demands are, in a row of its bucket: -1 if its tasks are known."""
    if c < 0 or known[c]["status"] != UNDETERMINED:
        return -1
    return int(stages[c]["cell"] + row // stages[c]["stride"] % stages[c]["cells"])


@kernel
def _distribute(net: Networks, scratch: Scratch) -> None:
    """The pass down: the posterior of every variable."""
    variables, table, up = net.variables, net.table, net.up
    work, conditional, joint = scratch.variables, scratch.conditional, scratch.joint
    weight, marginal, rows = scratch.weight, scratch.marginal, scratch.rows
    for v in range(len(variables)):
        own, here = variables[v], work[v]
        low, high = here["low"], here["high"]
        for x in range(own["states"]):
            marginal[v, x] = 0.0
        if _settled(here):
            marginal[v, low] = 1.0
            continue
        if here["root"] == 1:
            weight[own["row"] + rows[own["row"]]] = 1.0
        else:
            for i in range(here["count"]):
                weight[own["row"] + rows[own["row"] + i]] = 0.0
            above, over = variables[own["parent"]], work[own["parent"]]
            for i in range(over["count"]):
                row = rows[above["row"] + i] * above["states"]
                for entry in range(row + over["low"], row + over["high"] + 1):
                    weight[own["row"] + up[own["up"] + entry]] += joint[above["entry"] + entry]
        total = 0.0
        for i in range(here["count"]):
            row = rows[own["row"] + i]
            for x in range(low, high + 1):
                entry = own["entry"] + row * own["states"] + x
                p = conditional[entry] if here["dirty"] == 1 else table[entry]
                p *= weight[own["row"] + row]
                joint[entry] = p
                marginal[v, x] += p
                total += p
        if not total > 0.0:  # after impossible evidence: whatever is allowed
            for x in range(low, high + 1):
                marginal[v, x] = 1.0 / (high - low + 1)


@kernel
def _fill_prior(net: Networks, scratch: Scratch) -> None:
    """The beliefs before any evidence, and given presence alone."""
    _forget(net, scratch)
    _trace(net, scratch)
    _distribute(net, scratch)
    for c in range(len(net.stages)):
        _guess_tasks(net, scratch, c)
        v = net.stages[c]["demand"]
        marginal = scratch.marginal[v, : net.variables[v]["states"]]
        means, squares = scratch.means[c], scratch.squares[c]
        prior, settings = net.prior[c], net.settings[0]
        for x in range(len(marginal)):
            net.marginal[c, x], net.means[c, x] = marginal[x], means[x]
        net.stages[c]["variance"] = _describe(
            net.bins[c], means, squares, marginal, settings, prior[0]
        )
        present = 1.0 - marginal[0]
        marginal[0] = 0.0
        for x in range(1, len(marginal)):
            marginal[x] = marginal[x] / present if present > 0.0 else 1.0 / (len(marginal) - 1)
        net.stages[c]["variance_present"] = _describe(
            net.bins[c], means, squares, marginal, settings, prior[1]
        )


@kernel
def _describe(
    bins: Table,
    means: FloatArray,
    squares: FloatArray,
    marginal: FloatArray,
    settings: Table,
    out: Table,
) -> float:
    """Summarise the posterior of a stage's demand; returns its variance."""
    mean = square = entropy = 0.0
    for x in range(len(marginal)):
        p = marginal[x]
        if p > 0.0:
            mean += p * means[x]
            square += p * squares[x]
            entropy -= p * math.log2(p)
    out["presence"] = 1.0 - marginal[0]
    out["demand_s"] = mean
    out["entropy_bits"] = max(0.0, entropy)
    out["low_s"] = _quantile(bins, means, marginal, float(settings["low"]))
    out["high_s"] = _quantile(bins, means, marginal, float(settings["high"]))
    return max(0.0, square - mean * mean)


@kernel
def _quantile(bins: Table, means: FloatArray, marginal: FloatArray, level: float) -> float:
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
            least, most = bins[x]["least_s"], bins[x]["most_s"]
            rounding = 1e-9 * (most - least)
            if means[x] <= least + rounding or means[x] >= most - rounding:
                return float(means[x])
            u = min(1.0, max(0.0, (level - below) / marginal[x]))
            return float(least + (most - least) * u ** ((most - means[x]) / (means[x] - least)))
        below += marginal[x]
    return float(bins[last]["most_s"])


# --- Gittins index ----------------------------------------------------------------------------
# What remains of a job is ``certain`` seconds, at least what its visible stages take, and a rest on
# a grid. Values between two grid points are divided between them so that their mean stays. A
# *transform* stands for a distribution on the grid: values of its generating function (networks).


def _fill_transforms(net: Networks, scratch: Scratch) -> None:
    """The transforms of what is in and below each bucket without evidence, at every level."""
    static, transforms, known = net.transforms, scratch.transforms, scratch.stages
    known["status"], known["left"] = UNDETERMINED, 1.0
    _forget(net, scratch)
    _trace(net, scratch)
    scratch.variables["dirty"], scratch.variables["root"] = 1, 0
    scratch.conditional[: len(net.table)] = net.table
    levels = net.steps.shape[1]
    for level in range(levels):
        _collect_transforms(net, scratch, level)
        static[level::levels] = transforms[: len(net.moments)]


@kernel
def _gittins(net: Networks, scratch: Scratch, row: Table, stages: Table, mode: int) -> float:
    """Gittins index of what remains of a job: the least E[min(X, D)] / P(X <= D) over all D.

    D is a grid point or infinite. The grid ends four standard deviations above the mean, if not at
    the most that may remain; beyond it is at most 1/17 of the probability (Cantelli), and the
    index is too large by that share of it at most.
    """
    known, steps = scratch.stages, net.steps[0]
    mean = row["llm_s"] + row["regular_s"]
    rest = 0.0
    for c in range(len(net.stages)):
        if known[c]["left"] > 0.0:
            rest += known[c]["left"] * stages[c]["demand_s"] - _least_left(net, scratch, c, mode)
    if rest <= 1e-12 * mean:
        return mean
    variance = row["variance_llm"] + 2.0 * row["covariance"] + row["variance_regular"]
    reach = rest + 4.0 * math.sqrt(max(0.0, variance))
    level = 0
    while level < len(steps) - 1 and (len(scratch.mass) - 1) * steps[level] < reach:
        level += 1
    if mode == BAYES:
        _collect_transforms(net, scratch, level)
        _join_transforms(net, scratch, level)
    else:
        _join_stages(net, scratch, steps[level])
    _find_mass(net, scratch)
    return _least_ratio(scratch.mass, mean, mean - rest, steps[level])


@kernel
def _least_left(net: Networks, scratch: Scratch, c: int, mode: int) -> float:
    """What remains of a stage at least: of a visible one, the mean of its least possible bin."""
    known = scratch.stages[c]
    if known["status"] != PRESENT:
        return 0.0
    if mode == BAYES:
        return known["left"] * scratch.means[c, scratch.variables[net.stages[c]["demand"]]["low"]]
    return known["left"] * net.means[c, 1]


@kernel
def _collect_transforms(net: Networks, scratch: Scratch, level: int) -> None:
    """Transforms of the rest in and below each bucket that evidence reaches, row by row."""
    variables, stages, cells, static = net.variables, net.stages, net.cells, net.transforms
    children, up, powers, step = net.children, net.up, net.powers, net.steps[0, level]
    known, work, conditional = scratch.stages, scratch.variables, scratch.conditional
    transforms, means, rows = scratch.transforms, scratch.means, scratch.rows
    factor, below, levels = scratch.factor, scratch.below, net.steps.shape[1]
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["dirty"] == 0 or _settled(here):
            continue
        stage = own["stage"]
        left = known[stage]["left"] if stage >= 0 else 0.0
        least = _least_left(net, scratch, stage, BAYES) if left > 0.0 else 0.0
        count = 0
        for k in range(own["child"], own["end_child"]):
            if work[children[k]]["root"] == 0:
                below[count] = children[k]
                count += 1
        for i in range(here["count"]):
            row = rows[own["row"] + i]
            cell = _cell(stages, known, stage, row)
            _clear(transforms, own["row"] + row)
            for x in range(here["low"], here["high"] + 1):
                entry = row * own["states"] + x
                p = conditional[own["entry"] + entry]
                if p == 0.0:
                    continue
                place = 0.0
                if left > 0.0:
                    mean = left * means[stage, x] if cell < 0 else cells[cell, x]
                    place = (mean - least) / step
                _put(factor, powers, place, p)
                for k in range(count):
                    u = below[k]
                    at = variables[u]["row"] + up[variables[u]["up"] + entry]
                    if work[u]["dirty"] == 1:
                        _multiply(factor, transforms, at)
                    else:
                        _multiply(factor, static, at * levels + level)
                _add(transforms, own["row"] + row, factor)


@kernel
def _join_transforms(net: Networks, scratch: Scratch, level: int) -> None:
    """Transform of the job's rest: the trees that the evidence leaves are independent."""
    variables, static = net.variables, net.transforms
    work, rows, transform = scratch.variables, scratch.rows, scratch.transform
    _fill(transform, 1.0)
    for v in range(len(variables)):
        if work[v]["root"] == 0 or _settled(work[v]):
            continue
        at = variables[v]["row"] + rows[variables[v]["row"]]
        if work[v]["dirty"] == 1:
            _multiply(transform, scratch.transforms, at)
        else:
            _multiply(transform, static, at * net.steps.shape[1] + level)


@kernel
def _join_stages(net: Networks, scratch: Scratch, step: float) -> None:
    """Transform of the job's rest without evidence: the stages are taken as independent."""
    transform, factor, powers = scratch.transform, scratch.factor, net.powers
    known, mixed = scratch.stages, scratch.transforms
    _fill(transform, 1.0)
    for c in range(len(net.stages)):
        left = known[c]["left"]
        if left == 0.0:
            continue
        least = _least_left(net, scratch, c, PRIOR)
        first = 1 if known[c]["status"] == PRESENT else 0
        present = 1.0 - net.marginal[c, 0] if first == 1 else 1.0
        states = net.variables[net.stages[c]["demand"]]["states"]
        _clear(mixed, 0)
        for x in range(first, states):
            p = net.marginal[c, x] / present if present > 0.0 else 1.0 / (states - 1)
            if p == 0.0:
                continue
            _put(factor, powers, (left * net.means[c, x] - least) / step, p)
            _add(mixed, 0, factor)
        _multiply(transform, mixed, 0)


@kernel
def _fill(out: FloatArray, p: float) -> None:
    """The transform of 0 seconds, times their probability."""
    for q in range(out.shape[1]):
        out[0, q] = p
        out[1, q] = 0.0


@kernel
def _put(out: FloatArray, powers: FloatArray, place: float, p: float) -> None:
    """The transform of a value in grid steps, times its probability; none beyond the grid."""
    j = int(place)
    upper = p * (place - j)
    lower = p - upper
    if place == 0.0:
        _fill(out, p)
    elif j + 1 >= len(powers):
        _fill(out, 0.0)
    else:
        for part in range(2):
            for q in range(out.shape[1]):
                out[part, q] = lower * powers[j, part, q] + upper * powers[j + 1, part, q]


@kernel
def _clear(table: FloatArray, row: int) -> None:
    for part in range(2):
        for q in range(table.shape[2]):
            table[row, part, q] = 0.0


@kernel
def _add(table: FloatArray, row: int, out: FloatArray) -> None:
    """Mix: probabilities of exclusive cases add up."""
    for part in range(2):
        for q in range(out.shape[1]):
            table[row, part, q] += out[part, q]


@kernel
def _multiply(out: FloatArray, table: FloatArray, row: int) -> None:
    """Convolve: the transform of a sum of independent parts is the product of theirs."""
    for q in range(out.shape[1]):
        re, im = out[0, q], out[1, q]
        out[0, q] = re * table[row, 0, q] - im * table[row, 1, q]
        out[1, q] = re * table[row, 1, q] + im * table[row, 0, q]


@kernel
def _find_mass(net: Networks, scratch: Scratch) -> None:
    """Probabilities of the grid points: of j and GRID - j at once, whose waves are alike."""
    cosine, sine, scale = net.waves[0], net.waves[1], net.scale
    transform, mass = scratch.transform, scratch.mass
    even, odd = scratch.sums[0], scratch.sums[1]
    for j in range(len(even)):
        even[j] = odd[j] = 0.0
    for k in range(0, transform.shape[1], 2):  # two at a time, for fewer passes over the sums
        first, second = transform[0, k], transform[0, k + 1]
        for j in range(len(even)):
            even[j] += first * cosine[k, j] + second * cosine[k + 1, j]
        first, second = transform[1, k], transform[1, k + 1]
        for j in range(len(odd)):
            odd[j] += first * sine[k, j] + second * sine[k + 1, j]
    mass[0] = scale[0] * even[0]
    for j in range(1, len(even)):
        mass[j] = scale[j] * (even[j] - odd[j])
        mass[len(mass) - j] = -scale[len(mass) - j] * (even[j] + odd[j])


@kernel
def _least_ratio(mass: FloatArray, mean: float, certain: float, step: float) -> float:
    """The index of ``certain`` seconds and a rest with these probabilities."""
    best, below, served = mean, 0.0, certain  # P(X <= D) and E[min(X, D)]
    for j in range(len(mass)):
        below += mass[j]
        if below > 1e-6:  # less may be what is beyond the grid, or rounding
            best = min(best, served / below)
        served += step * (1.0 - below)
    return best


# --- What a job shows -------------------------------------------------------------------------


@kernel
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
def _set_evidence(state: ClusterState, net: Networks, scratch: Scratch) -> int:
    """Turn what is known into evidence; returns how many values no past job had."""
    _forget(net, scratch)
    stages, variables, bins = net.stages, net.variables, net.bins
    known, work, actual = scratch.stages, scratch.variables, state.stages
    means, squares = scratch.means, scratch.squares
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
            _know_tasks(bins[c], stages[c]["cells"], actual[s]["num_tasks"], means[c], squares[c])
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


@kernel
def _know_tasks(
    bins: Table, cells: int, tasks: int, means: FloatArray, squares: FloatArray
) -> None:
    """Moments of a stage's demand in each bin, its number of tasks being known."""
    for x in range(len(bins)):
        mean = bins[x]["mean_s"]
        if cells > 1 and bins[x]["tasks"] > 0.0:
            mean = min(max(mean * tasks / bins[x]["tasks"], bins[x]["least_s"]), bins[x]["most_s"])
        means[x] = mean
        squares[x] = mean * mean + bins[x]["variance"]


@kernel
def _guess_tasks(net: Networks, scratch: Scratch, c: int) -> None:
    """Moments of a stage's demand in each bin, over what its number of tasks may be."""
    stage, bins, cells = net.stages[c], net.bins[c], net.cells
    own, here = net.variables[stage["demand"]], scratch.variables[stage["demand"]]
    joint, marginal, rows = scratch.joint, scratch.marginal[stage["demand"]], scratch.rows
    means, squares = scratch.means[c], scratch.squares[c]
    states = own["states"]
    if stage["cells"] == 1:
        for x in range(states):
            means[x] = bins[x]["mean_s"]
            squares[x] = means[x] * means[x] + bins[x]["variance"]
        return
    for x in range(states):
        means[x] = squares[x] = 0.0
    for i in range(here["count"]):
        row = rows[own["row"] + i]
        cell = stage["cell"] + row // stage["stride"] % stage["cells"]
        for x in range(here["low"], here["high"] + 1):
            p = joint[own["entry"] + row * states + x]
            means[x] += p * cells[cell, x]
            squares[x] += p * cells[cell, x] * cells[cell, x]
    for x in range(states):
        if marginal[x] > 0.0:
            means[x] /= marginal[x]
            squares[x] = squares[x] / marginal[x] + bins[x]["variance"]


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


# --- Uncertainty reduction --------------------------------------------------------------------


@kernel
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


@kernel
def _structural_entropy(marginal: FloatArray, states: int) -> float:
    """Entropy in bits of a fan-out, or of presence alone where there is none (no states)."""
    total = 0.0
    for x in range(states):
        total += _plogp(marginal[x])
    if states == 0:
        total = _plogp(marginal[0]) + _plogp(1.0 - marginal[0])
    return total


@kernel
def _plogp(p: float) -> float:
    return -p * math.log2(p) if p > 0.0 else 0.0


@kernel
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


@kernel
def _mark_path(variables: Table, work: Table, v: int, top: int) -> None:
    """Mark the buckets from a variable up to the root of its tree."""
    u = v
    while work[u]["mark"] == 0:
        work[u]["mark"] = 1
        if u == top:
            break
        u = variables[u]["parent"]
    work[v]["mark"] = 2


@kernel
def _message(net: Networks, scratch: Scratch, v: int, x: int, used: int, asked: int) -> int:
    """P(variables asked about in and below a bucket | its row), or their joint at the top.

    Written to ``scratch.messages`` from ``used`` on. Returns where the free space begins, or -1 if
    there is not enough.
    """
    variables, table, children, up = net.variables, net.table, net.children, net.up
    work, conditional, messages = scratch.variables, scratch.conditional, scratch.messages
    weight, product, stack, rows = scratch.weight, scratch.product, scratch.below, scratch.rows
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
    for i in range(here["count"]):
        row = rows[own["row"] + i]
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
                for j in range(length - 1, -1, -1):
                    value = product[j]
                    for q in range(child["size"]):
                        product[j * child["size"] + q] = value * messages[at + q]
                length *= child["size"]
            if marked == 0:
                messages[out] += p
                continue
            child = work[stack[marked - 1]]
            at = child["message"] + up[variables[stack[marked - 1]]["up"] + entry] * child["size"]
            for j in range(length):
                for q in range(child["size"]):
                    messages[out + j * child["size"] + q] += product[j] * messages[at + q]
    return end


@kernel
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


@kernel
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
        if state.jobs[job]["changed"] == STARTED:
            continue  # nothing is learnt from that
        if mode == ORACLE:
            _reveal_truth(state, templates, beliefs, job)
        else:
            _update_job(state, templates, networks, beliefs, job, mode)


@kernel
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
    row["gittins_s"] = _gittins(net, scratch, row, stages, mode)


@kernel
def _describe_stages(net: Networks, scratch: Scratch, out: Table) -> None:
    stages, bins, settings, variables = net.stages, net.bins, net.settings[0], net.variables
    known, marginal = scratch.stages, scratch.marginal
    means, squares = scratch.means, scratch.squares
    for c in range(len(stages)):
        if known[c]["status"] <= PRESENT:
            if known[c]["status"] == UNDETERMINED:
                _guess_tasks(net, scratch, c)
            v = stages[c]["demand"]
            probability = marginal[v, : variables[v]["states"]]
            _describe(bins[c], means[c], squares[c], probability, settings, out[c])
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
            out[c]["entropy_bits"] = prior["entropy_bits"]
            out[c]["low_s"], out[c]["high_s"] = prior["low_s"], prior["high_s"]
        else:
            _settle(out[c], status)
        out[c]["reduction"] = 0.0


@kernel
def _settle(out: Table, status: int) -> None:
    """Of a stage that is complete, absent or unknown to the network nothing remains."""
    out["presence"] = 0.0 if status == ABSENT else 1.0
    out["demand_s"] = out["entropy_bits"] = out["low_s"] = out["high_s"] = 0.0


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
            _forget(net, scratch)
            scratch.variables[net.stages[c]["demand"]]["low"] = 1
            if net.stages[c]["fanout"] >= 0:
                scratch.variables[net.stages[c]["fanout"]]["low"] = 1
            _trace(net, scratch)
            _collect(net, scratch)
            _distribute(net, scratch)
        out[c]["reduction"] = _reduction(templates, net, scratch, out, base, c)


@kernel
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
        if _settled(work[v]):
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


@kernel
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
    row["gittins_s"] = row["llm_s"] + row["regular_s"]
