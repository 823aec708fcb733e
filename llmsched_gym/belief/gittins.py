"""The Gittins index of what remains of a job.

What remains is ``certain`` seconds, at least what its visible stages take, and a rest on a grid.
Values between two grid points are divided between them so that their mean stays. A *transform*
stands for a distribution on the grid: values of its generating function
(:mod:`~llmsched_gym.belief.networks`).
"""

from __future__ import annotations

import math

from llmsched_gym.belief.networks import (
    BAYES,
    PRESENT,
    PRIOR,
    UNDETERMINED,
    FloatArray,
    Networks,
    Scratch,
    Table,
)
from llmsched_gym.belief.posteriors import cell_of, forget, settled, trace
from llmsched_gym.compiled import kernel


def fill_transforms(net: Networks, scratch: Scratch) -> None:
    """The transforms of what is in and below each bucket without evidence, at every level."""
    static, transforms, known = net.transforms, scratch.transforms, scratch.stages
    known["status"], known["left"] = UNDETERMINED, 1.0
    forget(net, scratch)
    trace(net, scratch)
    scratch.variables["dirty"], scratch.variables["root"] = 1, 0
    scratch.conditional[: len(net.table)] = net.table
    levels = net.steps.shape[1]
    for level in range(levels):
        _collect_transforms(net, scratch, level, net.steps[0, level])
        static[level::levels] = transforms[: len(net.moments)]


@kernel
def gittins_index(net: Networks, scratch: Scratch, row: Table, stages: Table, mode: int) -> float:
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
    last = len(scratch.mass) - 1
    level = 0
    while level < len(steps) - 1 and last * steps[level] < reach:
        level += 1
    step = steps[level]
    while level <= 0 and last * (step / 2.0) >= reach:  # it is little beside a whole job
        level, step = -1, step / 2.0
    if mode == BAYES:
        _collect_transforms(net, scratch, level, step)
        _join_transforms(net, scratch, level)
    else:
        _join_stages(net, scratch, step)
    _find_mass(net, scratch)
    return _least_ratio(scratch.mass, mean, max(0.0, mean - rest), step)


@kernel
def _least_left(net: Networks, scratch: Scratch, c: int, mode: int) -> float:
    """What remains of a stage at least: of a visible one, the mean of its least possible bin."""
    known = scratch.stages[c]
    if known["status"] != PRESENT:
        return 0.0
    if mode == BAYES:
        return known["left"] * scratch.means[c, scratch.variables[net.stages[c]["demand"]]["low"]]
    return known["left"] * net.means[c, 1]


# --- Transforms of what remains -------------------------------------------------------------------


@kernel
def _collect_transforms(net: Networks, scratch: Scratch, level: int, step: float) -> None:
    """Transforms of the rest in and below each bucket that evidence reaches, row by row.

    Of each bucket, if the step is none that there are transforms for (level -1).
    """
    variables, stages, cells, static = net.variables, net.stages, net.cells, net.transforms
    children, up, powers, table = net.children, net.up, net.powers, net.table
    known, work, conditional = scratch.stages, scratch.variables, scratch.conditional
    transforms, means, rows = scratch.transforms, scratch.means, scratch.rows
    factor, below, levels = scratch.factor, scratch.below, net.steps.shape[1]
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if (here["dirty"] == 0 and level >= 0) or settled(here):
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
            cell = cell_of(stages, known, stage, row)
            _clear(transforms, own["row"] + row)
            for x in range(here["low"], here["high"] + 1):
                entry = row * own["states"] + x
                p = conditional[own["entry"] + entry]
                if here["dirty"] == 0:
                    p = table[own["entry"] + entry]
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
                    if work[u]["dirty"] == 1 or level < 0:
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
        if work[v]["root"] == 0 or settled(work[v]):
            continue
        at = variables[v]["row"] + rows[variables[v]["row"]]
        if work[v]["dirty"] == 1 or level < 0:
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


# --- Arithmetic of transforms ---------------------------------------------------------------------


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


# --- From a transform to the index ----------------------------------------------------------------


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
