"""Exact posteriors of running jobs from the compiled networks, in microseconds.

One pass up the tree of buckets multiplies the evidence in, one pass down it reads the posteriors
off. A variable without evidence in or below its bucket keeps its static table, and where evidence
fixes a whole separator the tree falls apart: only the part of a job that is still uncertain costs
time.

Evidence is an interval of states per variable: absent is [0, 0], present [1, K], a value [k, k].
Entropies are in bits, times in seconds at batch size 1.

Kernels take their arrays out of the named tuples once: numba counts references at every access.
"""

from __future__ import annotations

import math

from llmsched_gym.belief.networks import (
    UNDETERMINED,
    UNKNOWN,
    FloatArray,
    IntArray,
    Networks,
    Scratch,
    Table,
)
from llmsched_gym.compiled import kernel

# --- Passes over the tree -------------------------------------------------------------------------


@kernel
def forget(net: Networks, scratch: Scratch) -> None:
    """No evidence."""
    variables, work = net.variables, scratch.variables
    for v in range(len(variables)):
        work[v]["low"], work[v]["high"] = 0, variables[v]["states"] - 1


@kernel
def trace(net: Networks, scratch: Scratch) -> None:
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
def settled(here: Table) -> bool:
    """Whether evidence fixes a bucket's variable and its separator: nothing is left to compute."""
    return bool(here["root"] == 1 and here["low"] == here["high"])


@kernel
def collect(net: Networks, scratch: Scratch) -> None:
    """The pass up: multiply the evidence into the buckets that have some in or below them."""
    variables, table, children, up = net.variables, net.table, net.children, net.up
    work, rows = scratch.variables, scratch.rows
    conditional, likelihood = scratch.conditional, scratch.likelihood
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["dirty"] == 0 or settled(here):
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
def collect_moments(net: Networks, scratch: Scratch) -> None:
    """Moments of what remains in and below each bucket that evidence reaches, row by row."""
    variables, stages, bins, cells = net.variables, net.stages, net.bins, net.cells
    children, up, static = net.children, net.up, net.moments
    known, work, conditional = scratch.stages, scratch.variables, scratch.conditional
    moments, means, rows = scratch.moments, scratch.means, scratch.rows
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["dirty"] == 0 or settled(here):
            continue
        stage = own["stage"]
        left = known[stage]["left"] if stage >= 0 else 0.0
        for i in range(here["count"]):
            row = rows[own["row"] + i]
            cell = cell_of(stages, known, stage, row)
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
def cell_of(stages: Table, known: Table, c: int, row: int) -> int:
    """Where a stage's mean demands are, in a row of its bucket: -1 if its tasks are known."""
    if c < 0 or known[c]["status"] != UNDETERMINED:
        return -1
    return int(stages[c]["cell"] + row // stages[c]["stride"] % stages[c]["cells"])


@kernel
def distribute(net: Networks, scratch: Scratch) -> None:
    """The pass down: the posterior of every variable."""
    variables, table, up = net.variables, net.table, net.up
    work, conditional, joint = scratch.variables, scratch.conditional, scratch.joint
    weight, marginal, rows = scratch.weight, scratch.marginal, scratch.rows
    for v in range(len(variables)):
        own, here = variables[v], work[v]
        low, high = here["low"], here["high"]
        for x in range(own["states"]):
            marginal[v, x] = 0.0
        if settled(here):
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


# --- What a posterior says of a stage -------------------------------------------------------------


@kernel
def fill_prior(net: Networks, scratch: Scratch) -> None:
    """The beliefs before any evidence, and given presence alone."""
    forget(net, scratch)
    trace(net, scratch)
    distribute(net, scratch)
    for c in range(len(net.stages)):
        guess_tasks(net, scratch, c)
        v = net.stages[c]["demand"]
        marginal = scratch.marginal[v, : net.variables[v]["states"]]
        means, squares = scratch.means[c], scratch.squares[c]
        prior, settings = net.prior[c], net.settings[0]
        for x in range(len(marginal)):
            net.marginal[c, x], net.means[c, x] = marginal[x], means[x]
        net.stages[c]["variance"] = describe(
            net.bins[c], means, squares, marginal, settings, prior[0]
        )
        present = 1.0 - marginal[0]
        marginal[0] = 0.0
        for x in range(1, len(marginal)):
            marginal[x] = marginal[x] / present if present > 0.0 else 1.0 / (len(marginal) - 1)
        net.stages[c]["variance_present"] = describe(
            net.bins[c], means, squares, marginal, settings, prior[1]
        )


@kernel
def guess_tasks(net: Networks, scratch: Scratch, c: int) -> None:
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
def describe(
    bins: Table,
    means: FloatArray,
    squares: FloatArray,
    marginal: FloatArray,
    settings: Table,
    out: Table,
) -> float:
    """Summarise the posterior of a stage's demand; returns its variance."""
    mean = square = entropy = work = 0.0
    for x in range(len(marginal)):
        p = marginal[x]
        if p > 0.0:
            mean += p * means[x]
            work += p * means[x] * bins[x]["work"]
            square += p * squares[x]
            entropy -= p * math.log2(p)
    out["presence"] = 1.0 - marginal[0]
    out["demand_s"], out["work_s"] = mean, work
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
