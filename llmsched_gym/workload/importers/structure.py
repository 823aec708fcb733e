"""From the times of calls and tools to the graph of a job."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import Kind, LLMTask, RegularTask, Stage, Task

MOST_EDGES = 2_000_000  # of one trace, before parallel calls become tasks


class Limit(ValueError):
    """A trace that is too large for a job."""


class Work(NamedTuple):
    """A call or tool of a trace; times in nanoseconds."""

    name: str
    kind: Kind
    start: int
    end: int
    prompt_tokens: int = 0
    output_tokens: int = 0

    def task(self) -> Task:
        """What it asked for."""
        if self.kind == Kind.LLM:
            return LLMTask(self.prompt_tokens, self.output_tokens)
        return RegularTask((self.end - self.start) / 1e9)


class _Part(NamedTuple):
    """A part of a graph: from when to when it ran, and what of it comes first and last."""

    start: int
    end: int
    entries: list[int]
    exits: list[int]


def stages_of(
    works: Mapping[int, Work],
    children: Sequence[Sequence[int]],
    roots: Sequence[int],
    tally: Tally,
    place: str,
) -> tuple[Stage, ...]:
    """The stages of a job, in the order in which they started.

    - What a call or tool holds waits for it.
    - Of the parts that one span holds, each waits for those that ended before it started, unless
      another that it waits for did so already: parts that overlap are parallel.
    - Works of one kind and name that wait for the same works, and for which the same works wait,
      are tasks of one stage.
    - A stage after an LLM stage is revealed by it: of those before it, the one that ended last.

    Parameters
    ----------
    works : by the number of their span, at least one.
    children : the spans that each span holds.
    roots : the spans that none holds.
    tally : is told what was guessed, at ``place``.
    """
    parents = _parents_by_time(works, children, roots)
    if any(parents.values()):
        held = sum(bool(row) for row in parents.values())
        tally.guessed.add("what a stage waits for: from times and from what holds it", place, held)
    groups = _groups(works, parents, tally, place)
    group_of = {index: number for number, group in enumerate(groups) for index in group}
    rows = [sorted({group_of[parent] for parent in parents[group[0]]}) for group in groups]
    reveals = _revealers(works, groups, rows)
    known = sum(revealer is not None for revealer in reveals)
    tally.guessed.add("stages revealed by the LLM stage before them", place, known)
    return tuple(
        Stage(
            name=works[group[0]].name,
            kind=works[group[0]].kind,
            parents=tuple(row),
            tasks=tuple(works[index].task() for index in group),
            revealed_by=revealer,
        )
        for group, row, revealer in zip(groups, rows, reveals, strict=True)
    )


def _parents_by_time(
    works: Mapping[int, Work], children: Sequence[Sequence[int]], roots: Sequence[int]
) -> dict[int, list[int]]:
    parents: dict[int, list[int]] = {index: [] for index in works}
    parts: dict[int, _Part] = {}
    order = list(roots)
    for index in order:
        order += children[index]
    for index in reversed(order):
        held = _in_sequence([parts[child] for child in children[index] if child in parts], parents)
        work = works.get(index)
        if work is not None:
            own = _Part(work.start, work.end, [index], [index])
            held = own if held is None else _after(own, held, parents)
        if held is not None:
            parts[index] = held
    _in_sequence([parts[root] for root in roots if root in parts], parents)
    return parents


def _after(first: _Part, then: _Part, parents: dict[int, list[int]]) -> _Part:
    """Both parts, the second of which waits for the first."""
    for entry in then.entries:
        parents[entry] += first.exits
    start, end = min(first.start, then.start), max(first.end, then.end)
    return _Part(start, end, first.entries, then.exits)


def _in_sequence(parts: list[_Part], parents: dict[int, list[int]]) -> _Part | None:
    """All parts, each waiting for those that ended before it started."""
    if len(parts) < 2:
        return parts[0] if parts else None
    ended = sorted(parts, key=lambda part: (part.end, part.start))
    keys = [(part.end, part.start) for part in ended]
    latest = list(accumulate((part.start for part in ended), max))  # start among the first of them
    waiting, followed = [False] * len(parts), [False] * len(parts)
    edges = sum(map(len, parents.values()))
    for number, part in enumerate(ended):
        before = bisect_left(keys, (part.start, part.start))
        if before == 0:
            continue
        waiting[number] = True
        last = latest[before - 1]
        for earlier in range(bisect_left(keys, (last, last)), before):
            followed[earlier] = True
            edges += len(part.entries) * len(ended[earlier].exits)
            if edges > MOST_EDGES:
                raise Limit(f"more than {MOST_EDGES} pairs of stages that wait for one another")
            for entry in part.entries:
                parents[entry] += ended[earlier].exits
    return _Part(
        min(part.start for part in parts),
        max(part.end for part in parts),
        [i for part, waits in zip(ended, waiting, strict=True) if not waits for i in part.entries],
        [i for part, on in zip(ended, followed, strict=True) if not on for i in part.exits],
    )


def _groups(
    works: Mapping[int, Work], parents: Mapping[int, list[int]], tally: Tally, place: str
) -> list[list[int]]:
    """Works that become one stage each, and stages, in the order in which they started."""
    children: dict[int, list[int]] = {index: [] for index in works}
    order = sorted(works, key=lambda index: (works[index].start, works[index].end, index))
    for index in order:
        for parent in parents[index]:
            children[parent].append(index)
    groups: dict[object, list[int]] = {}
    for index in order:
        work = works[index]
        before, after = frozenset(parents[index]), frozenset(children[index])
        groups.setdefault((work.name, work.kind, before, after), []).append(index)
    merged = sum(len(group) for group in groups.values() if len(group) > 1)
    tally.guessed.add("parallel calls of one name: tasks of one stage", place, merged)
    return list(groups.values())


def _revealers(
    works: Mapping[int, Work], groups: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]
) -> list[int | None]:
    """Per stage the LLM stage before it that ended last, or None; parents may come later."""
    ends = [max(works[index].end for index in group) for group in groups]
    found: list[int | None] = [None] * len(groups)
    waiting = [len(row) for row in rows]
    children: list[list[int]] = [[] for _ in groups]
    for number, row in enumerate(rows):
        for parent in row:
            children[parent].append(number)
    free = [number for number, count in enumerate(waiting) if count == 0]
    for number in free:
        before = {
            parent if works[groups[parent][0]].kind == Kind.LLM else found[parent]
            for parent in rows[number]
        } - {None}
        found[number] = max(before, key=lambda one: (ends[one or 0], one), default=None)
        for child in children[number]:
            waiting[child] -= 1
            if waiting[child] == 0:
                free.append(child)
    return found
