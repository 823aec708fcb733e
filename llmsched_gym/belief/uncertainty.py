"""Uncertainty reduction (Eq. 6 of LLMSched): what a stage's completion tells about the others.

Entropies and mutual information are in bits.
"""

from __future__ import annotations

import math

from llmsched_gym.belief.logarithm import entropy
from llmsched_gym.belief.networks import (
    PRESENT,
    UNDETERMINED,
    FloatArray,
    IntArray,
    Networks,
    Scratch,
    Table,
)
from llmsched_gym.compiled import inlined, kernel
from llmsched_gym.workload.template import TemplateTable


@kernel
def uncertainty_reduction(
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
    for i in range(here["count"]):
        row = rows[own["row"] + i]
        if i == 0 or not top:  # impossible rows are never read
            out = used if top else used + row * size
            for q in range(out, out + size):
                messages[q] = 0.0
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
            _add_product(variables, work, up, stack[:marked], entry, p, messages, out, product)
    return end


@inlined
def _add_product(
    variables: Table,
    work: Table,
    up: IntArray,
    children: IntArray,
    entry: int,
    p: float,
    messages: FloatArray,
    out: int,
    product: FloatArray,
) -> None:
    """Add to the message from ``out`` on what an entry of a bucket, with probability p, makes of
    the messages of its children: their outer product.
    """
    if len(children) == 0:
        messages[out] += p
        return
    product[0] = p
    length = 1
    for k in range(len(children) - 1):
        child = work[children[k]]
        at = child["message"] + up[variables[children[k]]["up"] + entry] * child["size"]
        for j in range(length - 1, -1, -1):
            value = product[j]
            for q in range(child["size"]):
                product[j * child["size"] + q] = value * messages[at + q]
        length *= child["size"]
    last = children[len(children) - 1]
    child = work[last]
    at = child["message"] + up[variables[last]["up"] + entry] * child["size"]
    for j in range(length):
        for q in range(child["size"]):
            messages[out + j * child["size"] + q] += product[j] * messages[at + q]


@kernel
def _joint_information(scratch: Scratch, v: int, x: int) -> float:
    """I(X; the other variables asked about) from the joint distribution at a bucket."""
    here, asked = scratch.variables[v], scratch.variables[x]
    size, axis, states = here["size"], here["axis"], asked["high"] - asked["low"] + 1
    joint = scratch.messages[here["message"] : here["message"] + size]
    alone, others = scratch.product[:states], scratch.product[states : states + size // states]
    for state in range(states):
        alone[state] = 0.0
    for rest in range(len(others)):
        others[rest] = 0.0
    for block in range(size // (axis * states)):
        for state in range(states):
            total = 0.0
            first = (block * states + state) * axis
            for rest in range(axis):
                p = joint[first + rest]
                others[block * axis + rest] += p
                total += p
            alone[state] += total
    total = 0.0
    for state in range(states):
        total += alone[state]
    if not total > 0.0:
        return 0.0
    information = entropy(alone) + entropy(others) - entropy(joint)
    # With a total of t instead of 1 this sum is t (I - log2 t).
    return max(0.0, information / total + math.log2(total))
