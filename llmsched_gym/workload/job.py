"""The nouns of a workload: tasks, stages and jobs, and what makes them valid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum


class InvalidJob(ValueError):
    """A job that breaks one of the rules in :class:`Job`; the message names stage and field."""


class Kind(IntEnum):
    """What a stage runs on.

    ``DYNAMIC`` is a placeholder for whatever an unfinished stage may reveal. It appears in
    observations only: a :class:`Job` holds real stages, so none of its stages is dynamic.
    """

    LLM = 0
    REGULAR = 1
    DYNAMIC = 2


@dataclass(frozen=True, slots=True)
class LLMTask:
    """One LLM call: tokens read (known once its stage is ready) and tokens written (hidden)."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class RegularTask:
    """One tool call, code run, search or small model: its service time in seconds (hidden)."""

    duration_s: float


Task = LLMTask | RegularTask


@dataclass(frozen=True, slots=True)
class Stage:
    """A node of a job's graph: one or more parallel tasks of one kind.

    Parameters
    ----------
    name : the step of the program; several stages of a job may share it.
    kind : ``Kind.LLM`` or ``Kind.REGULAR``.
    parents : indices of the stages that must complete first.
    tasks : at least one ``LLMTask`` (kind LLM) or ``RegularTask`` (kind REGULAR).
    revealed_by : index of the ancestor whose completion makes this stage known to exist,
        or None if it is known when the job arrives.
    resource : what kind of regular executor ran it in the trace (informative only).
    """

    name: str
    kind: Kind
    parents: tuple[int, ...]
    tasks: tuple[Task, ...]
    revealed_by: int | None = None
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a compound LLM application: a directed acyclic graph of stages.

    Stages are named by their index in ``stages``; the order is free, parents may come later.

    Raises
    ------
    InvalidJob
        if there is no stage; a stage has a kind other than LLM or REGULAR, no task, a task of the
        wrong type, tokens below 1, a duration that is negative or not finite, a parent that does
        not exist or is named twice; the graph has a cycle; or ``revealed_by`` is not an ancestor.
    """

    application: str
    job_id: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.application:
            raise InvalidJob("application: empty name")
        if not self.stages:
            raise InvalidJob("stages: a job needs at least one stage")
        for index, stage in enumerate(self.stages):
            _check_stage(index, stage, len(self.stages))
        order = self.topological_order()
        _check_reveals(self.stages, order)

    def topological_order(self) -> tuple[int, ...]:
        """Stage indices, parents before children; among the free ones the lowest index first.

        Raises
        ------
        InvalidJob
            if the graph has a cycle.
        """
        waiting = [len(stage.parents) for stage in self.stages]
        children: list[list[int]] = [[] for _ in self.stages]
        for index, stage in enumerate(self.stages):
            for parent in stage.parents:
                children[parent].append(index)
        order: list[int] = []
        free = [index for index, count in enumerate(waiting) if count == 0]
        while free:
            index = min(free)
            free.remove(index)
            order.append(index)
            for child in children[index]:
                waiting[child] -= 1
                if waiting[child] == 0:
                    free.append(child)
        if len(order) < len(self.stages):
            stuck = min(set(range(len(self.stages))) - set(order))
            raise InvalidJob(f"stage {stuck}: parents: the graph has a cycle")
        return tuple(order)

    def reveal_depth(self) -> tuple[int, ...]:
        """How many reveals each stage is away from arrival (0: known at arrival)."""
        depth = [0] * len(self.stages)
        for index in self.topological_order():
            revealer = self.stages[index].revealed_by
            if revealer is not None:
                depth[index] = depth[revealer] + 1
        return tuple(depth)

    def canonical_names(self) -> tuple[str, ...]:
        """``name#occurrence`` of every stage, the identity by which jobs are compared.

        Occurrences (from 1) are counted in order of reveal, then topologically, so that the name
        of a visible stage never depends on one that is still hidden.
        """
        depth = self.reveal_depth()
        order = sorted(self.topological_order(), key=lambda index: depth[index])  # stable
        seen: Counter[str] = Counter()
        names = [""] * len(self.stages)
        for index in order:
            name = self.stages[index].name
            seen[name] += 1
            names[index] = f"{name}#{seen[name]}"
        return tuple(names)

    def tasks(self) -> Iterator[Task]:
        """All tasks, stage by stage."""
        for stage in self.stages:
            yield from stage.tasks


def _check_stage(index: int, stage: Stage, count: int) -> None:
    where = f"stage {index}"
    if stage.kind not in (Kind.LLM, Kind.REGULAR):
        raise InvalidJob(f"{where}: kind: {stage.kind!r} is neither LLM nor REGULAR")
    if not stage.tasks:
        raise InvalidJob(f"{where}: tasks: a stage needs at least one task")
    for number, task in enumerate(stage.tasks):
        _check_task(f"{where}: task {number}", stage.kind, task)
    if len(set(stage.parents)) != len(stage.parents):
        raise InvalidJob(f"{where}: parents: {list(stage.parents)} names a stage twice")
    for parent in stage.parents:
        if not 0 <= parent < count:
            raise InvalidJob(f"{where}: parents: stage {parent} does not exist")
    if stage.revealed_by is not None and not 0 <= stage.revealed_by < count:
        raise InvalidJob(f"{where}: revealed_by: stage {stage.revealed_by} does not exist")


def _check_task(where: str, kind: Kind, task: Task) -> None:
    if isinstance(task, LLMTask):
        if kind != Kind.LLM:
            raise InvalidJob(f"{where}: an LLM task in a stage of kind {Kind(kind).name}")
        if task.prompt_tokens < 1:
            raise InvalidJob(f"{where}: prompt_tokens: {task.prompt_tokens} is below 1")
        if task.output_tokens < 1:
            raise InvalidJob(f"{where}: output_tokens: {task.output_tokens} is below 1")
    else:
        if kind != Kind.REGULAR:
            raise InvalidJob(f"{where}: a regular task in a stage of kind {Kind(kind).name}")
        if not math.isfinite(task.duration_s) or task.duration_s < 0:
            raise InvalidJob(f"{where}: duration_s: {task.duration_s} is not a time in seconds")


def _check_reveals(stages: tuple[Stage, ...], order: tuple[int, ...]) -> None:
    ancestors: list[set[int]] = [set() for _ in stages]
    for index in order:
        for parent in stages[index].parents:
            ancestors[index] |= ancestors[parent] | {parent}
    for index, stage in enumerate(stages):
        if stage.revealed_by is not None and stage.revealed_by not in ancestors[index]:
            raise InvalidJob(
                f"stage {index}: revealed_by: stage {stage.revealed_by} is no ancestor"
            )
