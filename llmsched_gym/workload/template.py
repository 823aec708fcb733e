"""What is known of an application before any of its jobs runs: its stages and who reveals them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, ordered

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Template:
    """The canonical stages of one application, as its past jobs showed them.

    Attributes
    ----------
    application : its name.
    stages : canonical names in topological order. Where past jobs disagree on the order of two
        stages, the majority decides; where nothing does, the mean position in the jobs.
    kinds : the kind of each.
    revealers : per stage, the stages whose completion revealed it in some past job.
    at_arrival : per stage, whether it was known at arrival in some past job.
    awaits : per stage, the revealers for whose revealed stages it waited in some past job
        (a join that is known from the start waits for the plan's tools, say).
    """

    application: str
    stages: tuple[str, ...]
    kinds: tuple[Kind, ...]
    revealers: tuple[frozenset[int], ...]
    at_arrival: tuple[bool, ...]
    awaits: tuple[frozenset[int], ...]

    @classmethod
    def from_jobs(cls, jobs: Sequence[Job]) -> Template:
        """The template of the past jobs of one application (at least one).

        Raises
        ------
        ValueError
            if there is no job, or they belong to several applications.
        """
        applications = {job.application for job in jobs}
        if len(applications) != 1:
            raise ValueError(f"jobs: one application expected, got {sorted(applications)}")
        named = [(job, job.canonical_names()) for job in jobs]
        stages = _canonical_order(named)
        row = {name: index for index, name in enumerate(stages)}
        kinds: list[Counter[Kind]] = [Counter() for _ in stages]
        revealers: list[set[int]] = [set() for _ in stages]
        awaits: list[set[int]] = [set() for _ in stages]
        at_arrival = [False] * len(stages)
        for job, names in named:
            rows = [row[name] for name in names]
            for here, stage, waits in zip(rows, job.stages, awaited(job), strict=True):
                kinds[here][stage.kind] += 1
                if stage.revealed_by is None:
                    at_arrival[here] = True
                else:
                    revealers[here].add(rows[stage.revealed_by])
                awaits[here] |= {rows[revealer] for revealer in waits}
        return cls(
            application=applications.pop(),
            stages=stages,
            kinds=tuple(counts.most_common(1)[0][0] for counts in kinds),
            revealers=tuple(map(frozenset, revealers)),
            at_arrival=tuple(at_arrival),
            awaits=tuple(map(frozenset, awaits)),
        )


def _canonical_order(named: Iterable[tuple[Job, Sequence[str]]]) -> tuple[str, ...]:
    positions: dict[str, list[int]] = defaultdict(list)
    edges: Counter[tuple[str, str]] = Counter()
    for job, names in named:
        for position, index in enumerate(job.topological_order()):
            positions[names[index]].append(position)
            edges.update((names[parent], names[index]) for parent in job.stages[index].parents)
    before: dict[str, set[str]] = defaultdict(set)
    for (parent, child), count in edges.items():
        if count > edges[child, parent]:
            before[child].add(parent)
    left = sorted(positions, key=lambda name: (fmean(positions[name]), name))
    order: list[str] = []
    while left:
        free = (name for name in left if before[name].isdisjoint(left))
        order.append(next(free, left[0]))  # none is free if majorities go round in a circle
        left.remove(order[-1])
    return tuple(order)


def awaited(job: Job) -> tuple[frozenset[int], ...]:
    """Per stage of the job, the stages whose reveal it waits for, its own revealer apart.

    For a parent that may be hidden while the stage itself is visible, these are the parent's
    revealer, that revealer's, and so on up to the first that is visible whenever the stage is.
    """
    ancestors = job.ancestors()
    rows: list[frozenset[int]] = []
    for stage in job.stages:
        own: frozenset[int | None] = frozenset({None, stage.revealed_by})
        if stage.revealed_by is not None:
            own |= ancestors[stage.revealed_by]
        found: set[int] = set()
        for parent in stage.parents:
            revealer = job.stages[parent].revealed_by
            while revealer not in own:
                assert revealer is not None  # None is in `own`
                found.add(revealer)
                revealer = job.stages[revealer].revealed_by
        rows.append(frozenset(found))
    return tuple(rows)


class TemplateTable(NamedTuple):
    """The templates of all applications of a bank in flat arrays, for compiled code.

    C canonical stages in all; ``-1`` stands for what the past jobs never showed.

    Attributes
    ----------
    first : int64 [A + 1]; application a owns canonical stages ``first[a]:first[a + 1]``.
    kind : int64 [C].
    at_arrival : int64 [C], 1 if the stage was known at arrival in some past job.
    revealers_of, revealers : compressed rows; the stages that may reveal stage c.
    reveals_of, reveals : compressed rows; the stages that stage c may reveal.
    awaits_of, awaits : compressed rows; the revealers whose reveal stage c may wait for.

    All stage numbers are global (0 to C - 1). Row c of a compressed pair ``(x_of, x)`` is
    ``x[x_of[c]:x_of[c + 1]]``.
    """

    first: IntArray
    kind: IntArray
    at_arrival: IntArray
    revealers_of: IntArray
    revealers: IntArray
    reveals_of: IntArray
    reveals: IntArray
    awaits_of: IntArray
    awaits: IntArray


def fit_templates(bank: JobBank) -> dict[str, Template]:
    """One template per application of a bank of past jobs."""
    by_application: dict[str, list[Job]] = defaultdict(list)
    for job in bank.jobs():
        by_application[job.application].append(job)
    return {name: Template.from_jobs(by_application[name]) for name in bank.applications}


def template_table(applications: Sequence[str], templates: dict[str, Template]) -> TemplateTable:
    """Pack the templates in the order of ``applications``; one without a template has no rows."""
    first = [0]
    kind: list[int] = []
    at_arrival: list[int] = []
    revealers: list[list[int]] = []
    awaits: list[list[int]] = []
    for application in applications:
        base = first[-1]
        if application in templates:
            template = templates[application]
            kind += map(int, template.kinds)
            at_arrival += map(int, template.at_arrival)
            revealers += [[base + row for row in sorted(rows)] for rows in template.revealers]
            awaits += [[base + row for row in sorted(rows)] for rows in template.awaits]
        first.append(len(kind))
    reveals: list[list[int]] = [[] for _ in kind]
    for stage, rows in enumerate(revealers):
        for revealer in rows:
            reveals[revealer].append(stage)
    return TemplateTable(
        np.array(first, np.int64),
        np.array(kind, np.int64),
        np.array(at_arrival, np.int64),
        *_rows(revealers),
        *_rows(reveals),
        *_rows(awaits),
    )


def canonical_stages(bank: JobBank, templates: dict[str, Template]) -> IntArray:
    """int64 [S]: the global canonical stage of every stage of the bank, -1 if never seen before.

    Numbers agree with ``template_table(bank.applications, templates)``.
    """
    number = np.full((len(bank.applications), len(bank.stage_names)), -1, np.int64)
    name_index = {name: index for index, name in enumerate(bank.stage_names)}
    base = 0
    for row, application in enumerate(bank.applications):
        if application not in templates:
            continue
        for offset, name in enumerate(templates[application].stages):
            if name in name_index:
                number[row, name_index[name]] = base + offset
        base += len(templates[application].stages)
    stage_application = np.repeat(bank.job_application, np.diff(bank.job_stages))
    return number[stage_application, bank.stage_name]


def observation_bounds(bank: JobBank, table: TemplateTable, canonical: IntArray) -> tuple[int, int]:
    """The most rows and the most edges that any job of the bank can need in an observation.

    A job shows a row for each visible unfinished stage, and one more for the placeholder of each
    of these that may reveal something by the template. The number of rows is reached by some
    schedule; the number of edges may be too high, never too low.

    ``table`` and ``canonical`` are ``template_table(bank.applications, templates)`` and
    ``canonical_stages(bank, templates)``.

    What is shown lasts from the completion of one stage (or from arrival) to the completion of
    another. So the number of shown things is a sum over the completed stages, each of which adds
    what it reveals and takes away what it ends; its maximum over all sets of completed stages that
    are closed under predecessors is a maximum-weight closure, found as a minimum cut (Picard,
    Management Science 22(11), 1976).
    """
    first = np.repeat(bank.job_stages[:-1], np.diff(bank.job_stages))
    revealer = np.where(bank.stage_revealed_by < 0, -1, first + bank.stage_revealed_by)
    stage = np.arange(len(first))
    may_reveal = np.append(np.diff(table.reveals_of) > 0, False)[canonical]  # the last for -1
    hung = stage[may_reveal]  # stages that have a placeholder, and an edge to it
    edges = [
        (start + base if start >= 0 else -1, end + base)
        for job, base in enumerate(bank.job_stages[:-1].tolist())
        for start, end in _edge_intervals(bank, table, canonical, job)
    ]
    edge_start, edge_end = np.array(edges, np.int64).reshape(-1, 2).T
    return (
        _most_at_once(bank, np.append(revealer, revealer[hung]), np.append(stage, hung)),
        _most_at_once(bank, np.append(edge_start, revealer[hung]), np.append(edge_end, hung)),
    )


def _edge_intervals(
    bank: JobBank, table: TemplateTable, canonical: IntArray, job: int
) -> list[tuple[int, int]]:
    """For each edge that may be shown between rows of the job: from and until which completion.

    Stages are numbered inside the job, arrival is -1. Where the exact interval is no such pair
    (two reveals that run side by side), it is a longer one.
    """
    first, last = bank.job_stages[job], bank.job_stages[job + 1]
    rows = bank.stage_parents[first : last + 1].tolist()
    parents = [bank.parents[start:end].tolist() for start, end in pairwise(rows)]
    revealer = bank.stage_revealed_by[first:last].tolist()
    number = {row: stage for stage, row in enumerate(canonical[first:last].tolist()) if row >= 0}
    awaits = [_row(table.awaits_of, table.awaits, row) for row in canonical[first:last]]
    above: list[set[int]] = [set() for _ in parents]
    for stage in ordered(dict(enumerate(parents))):
        above[stage].update(parents[stage], *(above[parent] for parent in parents[stage]))
    intervals = []
    for stage, known in enumerate(revealer):
        before = {-1} if known < 0 else {-1, known, *above[known]}  # complete once it is visible
        sources = set()
        for source in parents[stage]:
            while source not in before:  # a hidden parent: the revealer stands for it, and so on
                sources.add(source)
                source = revealer[source]
        placeholders = {number[row] for row in awaits[stage] if row in number} - before
        for source in [*sources, *placeholders]:
            shown = revealer[source]
            source_first = shown < 0 or (known >= 0 and known not in above[shown])
            start = known if source_first else shown
            intervals.append((start, source if start < 0 or start in above[source] else stage))
    return intervals


def _most_at_once(bank: JobBank, start: IntArray, end: IntArray) -> int:
    """The most things of one job shown at once; each lasts from ``start`` to ``end``.

    Both are numbers of stages in the bank whose completion begins or ends it, -1 for the arrival.
    """
    from scipy.sparse import csr_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import maximum_flow  # type: ignore[import-untyped]

    count = len(bank.stage_name)
    job = np.repeat(np.arange(len(bank)), np.diff(bank.job_stages))
    child = np.repeat(np.arange(count), np.diff(bank.stage_parents))
    parent = bank.job_stages[job[child]] + bank.parents
    gain = np.bincount(start[start >= 0], minlength=count) - np.bincount(end, minlength=count)
    at_arrival = np.bincount(job[end[start < 0]], minlength=len(bank))

    # A minimum cut between the source and the sink, for all jobs at once: a completed stage with a
    # gain lies on the source's side, and draws its parents there.
    source, sink = count, count + 1
    (wins,), (losses,) = np.nonzero(gain > 0), np.nonzero(gain < 0)
    tail = np.concatenate([np.full(len(wins), source), losses, child])
    head = np.concatenate([wins, np.full(len(losses), sink), parent])
    unlimited = np.full(len(child), gain[wins].sum() + 1)
    capacity = np.concatenate([gain[wins], -gain[losses], unlimited]).astype(np.int32)
    graph = csr_array((capacity, (tail, head)), shape=(count + 2, count + 2))
    flow = maximum_flow(graph, source, sink).flow[[source]].toarray()[0, :count]
    return int((at_arrival + np.bincount(job, np.maximum(gain, 0) - flow)).max())


def _row(starts: IntArray, values: IntArray, row: int) -> list[int]:
    """Row ``row`` of a compressed pair; -1 is empty."""
    return [] if row < 0 else values[starts[row] : starts[row + 1]].tolist()


def _rows(rows: Iterable[Sequence[int]]) -> tuple[IntArray, IntArray]:
    rows = list(rows)
    starts = np.array(list(accumulate(map(len, rows), initial=0)), np.int64)
    return starts, np.array([value for row in rows for value in row], np.int64)
