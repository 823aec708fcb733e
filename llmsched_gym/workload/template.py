"""What is known of an application before any of its jobs runs: its stages and who reveals them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind

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
        kinds: dict[str, Counter[Kind]] = defaultdict(Counter)
        for job in jobs:
            for name, stage in zip(job.canonical_names(), job.stages, strict=True):
                kinds[name][stage.kind] += 1
        stages = _canonical_order(jobs)
        row = {name: index for index, name in enumerate(stages)}
        revealers: list[set[int]] = [set() for _ in stages]
        awaits: list[set[int]] = [set() for _ in stages]
        at_arrival = [False] * len(stages)
        for job in jobs:
            names, waits = job.canonical_names(), awaited(job)
            for index, stage in enumerate(job.stages):
                here = row[names[index]]
                if stage.revealed_by is None:
                    at_arrival[here] = True
                else:
                    revealers[here].add(row[names[stage.revealed_by]])
                awaits[here] |= {row[names[revealer]] for revealer in waits[index]}
        return cls(
            application=applications.pop(),
            stages=stages,
            kinds=tuple(kinds[name].most_common(1)[0][0] for name in stages),
            revealers=tuple(map(frozenset, revealers)),
            at_arrival=tuple(at_arrival),
            awaits=tuple(map(frozenset, awaits)),
        )


def _canonical_order(jobs: Sequence[Job]) -> tuple[str, ...]:
    positions: dict[str, list[int]] = defaultdict(list)
    edges: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        names = job.canonical_names()
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


def _rows(rows: Iterable[Sequence[int]]) -> tuple[IntArray, IntArray]:
    rows = list(rows)
    starts = np.array(list(accumulate(map(len, rows), initial=0)), np.int64)
    return starts, np.array([value for row in rows for value in row], np.int64)
