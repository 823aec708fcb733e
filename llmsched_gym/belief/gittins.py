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
    DECAY,
    GRID,
    KEPT,
    PRESENT,
    PRIOR,
    FloatArray,
    IntArray,
    Networks,
    Scratch,
    Table,
)
from llmsched_gym.belief.posteriors import cell_of, settled
from llmsched_gym.compiled import inlined, kernel

POINTS, SIDE = GRID // 2, 8  # of a transform, and of a square of as many


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
        _recall_transforms(net, scratch, level)
        _collect_transforms(net, scratch, level, step)
        _join_transforms(net, scratch)
    else:
        _join_stages(net, scratch, step)
    _find_mass(net, scratch)
    return _least_ratio(scratch.mass, mean, max(0.0, mean - rest), step)


@inlined
def _least_left(net: Networks, scratch: Scratch, c: int, mode: int) -> float:
    """What remains of a stage at least: of a visible one, the mean of its least possible bin."""
    known = scratch.stages[c]
    if known["status"] != PRESENT:
        return 0.0
    if mode == BAYES:
        return known["left"] * scratch.means[c, scratch.variables[net.stages[c]["demand"]]["low"]]
    return known["left"] * net.means[c, 1]


# --- Where transforms are -------------------------------------------------------------------------


@inlined
def _first_value(scratch: Scratch) -> int:
    """The values of the bucket at work, as many as there are states; then room for as many."""
    return len(scratch.transforms) - 2 * scratch.means.shape[1] - 2


@inlined
def _nothing(transforms: FloatArray) -> int:
    """No rest, 0 seconds."""
    return len(transforms) - 2


@inlined
def _whole(scratch: Scratch) -> int:
    """What remains of the job."""
    return len(scratch.transforms) - 1


# --- Transforms of what remains -------------------------------------------------------------------


@kernel
def _recall_transforms(net: Networks, scratch: Scratch, level: int) -> None:
    """Mark the buckets whose transforms are to be computed.

    Those are what evidence reaches and, below it, what it does not reach: the latter is the same
    in each update with the same step, and what is kept of earlier ones need not be computed again.
    """
    variables, work, rows = net.variables, scratch.variables, scratch.rows
    kept, kept_of, levels = scratch.kept, scratch.kept_of, net.steps.shape[1]
    for v in range(len(variables)):
        own, here = variables[v], work[v]
        if settled(here):
            here["mark"] = 0
        elif here["dirty"] == 1 or level < 0:
            here["mark"] = 1
        elif here["root"] == 0 and work[own["parent"]]["dirty"] == 0:
            here["mark"] = min(work[own["parent"]]["mark"], 1)
        else:
            here["mark"] = 0
            for i in range(here["count"]):
                row = rows[own["row"] + i]
                number = (own["number"] + row) * levels + level
                if kept_of[number % KEPT] != number:
                    here["mark"] = 2
                    break
                _copy(kept, number % KEPT, scratch.transforms, own["row"] + row)


@kernel
def _collect_transforms(net: Networks, scratch: Scratch, level: int, step: float) -> None:
    """Transforms of the rest in and below each marked bucket, row by row.

    Level -1 stands for a step with which nothing is kept.
    """
    variables, stages, table, children = net.variables, net.stages, net.table, net.children
    known, work, conditional = scratch.stages, scratch.variables, scratch.conditional
    transforms, rows, below, cases = scratch.transforms, scratch.rows, scratch.below, scratch.cases
    value, spare = _first_value(scratch), _first_value(scratch) + scratch.means.shape[1]
    for v in range(len(variables) - 1, -1, -1):
        own, here = variables[v], work[v]
        if here["mark"] == 0:
            continue
        stage, shown = own["stage"], -2
        remains = stage >= 0 and known[stage]["left"] > 0.0
        hanging = 0
        for k in range(own["child"], own["end_child"]):
            if work[children[k]]["root"] == 0:
                below[hanging] = children[k]
                hanging += 1
        for i in range(here["count"]):
            row = rows[own["row"] + i]
            if remains:
                cell = cell_of(stages, known, stage, row)
                if cell != shown:
                    _put_values(net, scratch, v, cell, step)
                    shown = cell
            found = 0
            for x in range(here["low"], here["high"] + 1):
                entry = row * own["states"] + x
                p = conditional[own["entry"] + entry]
                if here["dirty"] == 0:
                    p = table[own["entry"] + entry]
                if p > 0.0:
                    case = cases[found]
                    case["p"], case["one"] = p, value + x if remains else _nothing(transforms)
                    _add_parts(
                        variables,
                        net.up,
                        below[:hanging],
                        entry,
                        transforms,
                        case,
                        remains,
                        spare + x,
                    )
                    found += 1
            if hanging + remains > 1:
                _mix_sums(transforms, own["row"] + row, cases[:found])
            else:
                _mix(transforms, cases[:found], transforms, own["row"] + row)
        if here["mark"] == 2:
            _keep(net, scratch, v, level)


@inlined
def _put_values(net: Networks, scratch: Scratch, v: int, cell: int, step: float) -> None:
    """Transforms of a stage's rest in each of its bins."""
    stage, here = net.variables[v]["stage"], scratch.variables[v]
    least, left = _least_left(net, scratch, stage, BAYES), scratch.stages[stage]["left"]
    first = _first_value(scratch)
    for x in range(here["low"], here["high"] + 1):
        mean = left * scratch.means[stage, x] if cell < 0 else net.cells[cell, x]
        _put(scratch.transforms, first + x, net.powers, (mean - least) / step)


@inlined
def _add_parts(
    variables: Table,
    up: IntArray,
    hanging: IntArray,
    entry: int,
    transforms: FloatArray,
    case: Table,
    remains: bool,
    spare: int,
) -> None:
    """Add what is in the buckets that hang on an entry of another to its value, if any remains.

    Of more than two transforms all but the last are multiplied, in a spare one.
    """
    for k in range(len(hanging)):
        u = variables[hanging[k]]
        at = u["row"] + up[u["up"] + entry]
        if k == 0 and not remains:
            case["one"] = at
            continue
        if k + remains > 1:
            _multiply(transforms, int(case["one"]), int(case["other"]), spare)
            case["one"] = spare
        case["other"] = at


@kernel
def _keep(net: Networks, scratch: Scratch, v: int, level: int) -> None:
    """Keep the transforms of a bucket's rows for later updates."""
    own, levels = net.variables[v], net.steps.shape[1]
    for i in range(scratch.variables[v]["count"]):
        row = scratch.rows[own["row"] + i]
        number = (own["number"] + row) * levels + level
        _copy(scratch.transforms, own["row"] + row, scratch.kept, number % KEPT)
        scratch.kept_of[number % KEPT] = number


@kernel
def _join_transforms(net: Networks, scratch: Scratch) -> None:
    """Transform of the job's rest: the trees that the evidence leaves are independent."""
    variables, work, transforms = net.variables, scratch.variables, scratch.transforms
    _put(transforms, _whole(scratch), net.powers, 0.0)
    for v in range(len(variables)):
        if work[v]["root"] == 1 and not settled(work[v]):
            row = variables[v]["row"] + scratch.rows[variables[v]["row"]]
            _multiply(transforms, _whole(scratch), row, _whole(scratch))


@kernel
def _join_stages(net: Networks, scratch: Scratch, step: float) -> None:
    """Transform of the job's rest without evidence: the stages are taken as independent."""
    known, transforms, cases = scratch.stages, scratch.transforms, scratch.cases
    _put(transforms, _whole(scratch), net.powers, 0.0)
    for c in range(len(net.stages)):
        left = known[c]["left"]
        if left == 0.0:
            continue
        least = _least_left(net, scratch, c, PRIOR)
        first = 1 if known[c]["status"] == PRESENT else 0
        present = 1.0 - net.marginal[c, 0] if first == 1 else 1.0
        states = net.variables[net.stages[c]["demand"]]["states"]
        found = 0
        for x in range(first, states):
            p = net.marginal[c, x] / present if present > 0.0 else 1.0 / (states - 1)
            if p > 0.0:
                cases[found]["p"], cases[found]["one"] = p, _first_value(scratch) + x
                place = (left * net.means[c, x] - least) / step
                _put(transforms, _first_value(scratch) + x, net.powers, place)
                found += 1
        _mix(transforms, cases[:found], transforms, _first_value(scratch))
        _multiply(transforms, _whole(scratch), _first_value(scratch), _whole(scratch))


# --- Arithmetic of transforms ---------------------------------------------------------------------


@kernel
def _put(out: FloatArray, row: int, powers: FloatArray, place: float) -> None:
    """The transform of a value in grid steps; none beyond the grid."""
    j = int(place)
    if j + 1 >= len(powers):
        _clear(out, row)
        return
    upper = place - j
    lower = 1.0 - upper
    for part in range(2):
        for q in range(POINTS):
            out[row, part, q] = lower * powers[j, part, q] + upper * powers[j + 1, part, q]


@kernel
def _clear(table: FloatArray, row: int) -> None:
    for part in range(2):
        for q in range(POINTS):
            table[row, part, q] = 0.0


@kernel
def _copy(table: FloatArray, row: int, out: FloatArray, at: int) -> None:
    for part in range(2):
        for q in range(POINTS):
            out[at, part, q] = table[row, part, q]


@kernel
def _multiply(table: FloatArray, one: int, other: int, at: int) -> None:
    """Convolve: the transform of a sum of independent parts is the product of theirs."""
    for q in range(POINTS):
        re, im = table[one, 0, q], table[one, 1, q]
        by_re, by_im = table[other, 0, q], table[other, 1, q]
        table[at, 0, q] = re * by_re - im * by_im
        table[at, 1, q] = re * by_im + im * by_re


@kernel
def _mix(table: FloatArray, cases: Table, out: FloatArray, at: int) -> None:
    """Mix exclusive cases, one part each: probabilities add up. Two at a time is faster."""
    for k in range(0, len(cases), 2):
        a, p = cases[k]["one"], cases[k]["p"]
        b, r = a, 0.0
        if k + 1 < len(cases):
            b, r = cases[k + 1]["one"], cases[k + 1]["p"]
        if k == 0:
            for part in range(2):
                for q in range(POINTS):
                    out[at, part, q] = p * table[a, part, q] + r * table[b, part, q]
        else:
            for part in range(2):
                for q in range(POINTS):
                    out[at, part, q] += p * table[a, part, q] + r * table[b, part, q]


@kernel
def _mix_sums(table: FloatArray, at: int, cases: Table) -> None:
    """The same of cases of two parts each."""
    _clear(table, at)
    for k in range(len(cases)):
        one, other, p = cases[k]["one"], cases[k]["other"], cases[k]["p"]
        for q in range(POINTS):
            re, im = table[one, 0, q], table[one, 1, q]
            by_re, by_im = table[other, 0, q], table[other, 1, q]
            table[at, 0, q] += p * (re * by_re - im * by_im)
            table[at, 1, q] += p * (re * by_im + im * by_re)


# --- From a transform to the index ----------------------------------------------------------------


@kernel
def _find_mass(net: Networks, scratch: Scratch) -> None:
    """Probabilities of the grid points: two steps of 8 points, see ``networks._circle``."""
    back, mass, turn = net.back, scratch.mass, net.waves[1]
    whole, second = scratch.transforms[_whole(scratch)], scratch.waves
    _transform_columns(net.waves[0], whole, second)
    for u in range(SIDE):
        for v in range(SIDE):
            re, im = second[0, u * SIDE + v], second[1, u * SIDE + v]
            whole[0, v * SIDE + u] = re * turn[0, u, v] - im * turn[1, u, v]
            whole[1, v * SIDE + u] = re * turn[1, u, v] + im * turn[0, u, v]
    _transform_columns(net.waves[0], whole, second)
    for q in range(POINTS):
        re, im = second[0, q], second[1, q]
        mass[q] = back[0, 0, q] * re + back[0, 1, q] * im
        mass[POINTS + q] = back[1, 0, q] * re + back[1, 1, q] * im


@kernel
def _transform_columns(waves: FloatArray, table: FloatArray, out: FloatArray) -> None:
    """Fourier's sums over the columns of a complex square, which is changed.

    Rows that are half the square apart have the same factors, or opposite ones in odd rows of the
    outcome.
    """
    half = POINTS // 2
    for part in range(2):
        for q in range(half):
            one, other = table[part, q], table[part, half + q]
            table[part, q], table[part, half + q] = one + other, one - other
    for u in range(SIDE):
        a, b, c, d = waves[0, 0, u], waves[0, 1, u], waves[0, 2, u], waves[0, 3, u]
        p, q, r, s = waves[1, 0, u], waves[1, 1, u], waves[1, 2, u], waves[1, 3, u]
        i, at = half * (u % 2), u * SIDE
        j, k, m = i + SIDE, i + 2 * SIDE, i + 3 * SIDE
        for v in range(SIDE):
            out[0, at + v] = (
                (a * table[0, i + v] - p * table[1, i + v])
                + (b * table[0, j + v] - q * table[1, j + v])
                + (c * table[0, k + v] - r * table[1, k + v])
                + (d * table[0, m + v] - s * table[1, m + v])
            )
            out[1, at + v] = (
                (a * table[1, i + v] + p * table[0, i + v])
                + (b * table[1, j + v] + q * table[0, j + v])
                + (c * table[1, k + v] + r * table[0, k + v])
                + (d * table[1, m + v] + s * table[0, m + v])
            )


@kernel
def _least_ratio(mass: FloatArray, mean: float, certain: float, step: float) -> float:
    """The index of ``certain`` seconds and a rest with these probabilities."""
    best, below, served = mean, 0.0, certain  # P(X <= D) and E[min(X, D)]
    for j in range(len(mass)):
        below += mass[j]
        if below > 1e-6:  # less may be what is beyond the grid, or rounding
            best = min(best, served / below)
        served += step * (1.0 - below)
        if served > best * (1.0 + 2.0 * DECAY):  # below is hardly more than 1
            break
    return best
