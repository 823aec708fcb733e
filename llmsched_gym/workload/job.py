"""The nouns of a workload: tasks, stages and jobs, and what makes them valid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heapify, heappop, heappush

from llmsched_gym.checks import is_number, is_whole
from llmsched_gym.workload.inputs import fault_of_name, shown

MAX_TOKENS = 2**31 - 1  # of one call, each way
MAX_DURATION_S = 4.0e6  # of one regular task: the longest job that a cluster's clock counts
MAX_STAGES = 4000  # of one job: what is known of its graph grows with the square
MAX_ARRIVAL_S = 1e20  # and not below its negative: a Unix time in nanoseconds is 1.8e18


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
    name : the step of the program, without "#"; several stages of a job may share it.
        Like all names here, 1 to 255 characters that can be printed (no control characters).
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

    Stages are named by their index in ``stages``; the order is free, parents may come later. It
    decides ties between stages, so it should say nothing of what is hidden: the stages that are
    known together keep their order whatever else the job turns out to have.

    Parameters
    ----------
    application, job_id : names.
    stages : 1 to ``MAX_STAGES``.
    arrival_s : when it arrived, in seconds from any origin, if that is known.
    source : where it was read, ``file:line``, for messages.

    What it ran is what makes two jobs equal, not ``arrival_s`` and ``source``.

    Raises
    ------
    InvalidJob
        if a name is empty, too long or cannot be printed; there is no stage or there are too many;
        a stage has "#" in its name, a kind other than LLM or REGULAR, no task, a task of the wrong
        type, tokens that are no whole number from 1 to ``MAX_TOKENS`` (2**31 - 1), a duration that
        is no number of seconds from 0 to ``MAX_DURATION_S``, a parent that does not exist or is
        named twice; the graph has a cycle; ``revealed_by`` is not an ancestor; or ``arrival_s`` is
        beyond ``MAX_ARRIVAL_S``.
    """

    application: str
    job_id: str
    stages: tuple[Stage, ...]
    arrival_s: float | None = field(default=None, compare=False)
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("application", "job_id"):
            if fault := fault_of_name(getattr(self, name)):
                raise InvalidJob(f"{name}: {fault}")
        if self.arrival_s is not None and not is_number(
            self.arrival_s, -MAX_ARRIVAL_S, MAX_ARRIVAL_S
        ):
            raise InvalidJob(f"arrival_s: {shown(self.arrival_s)} is not a time in seconds")
        if not self.stages:
            raise InvalidJob("stages: a job needs at least one stage")
        if len(self.stages) > MAX_STAGES:
            raise InvalidJob(
                f"stages: {len(self.stages)} are more than the {MAX_STAGES} that a job may have"
            )
        for index, stage in enumerate(self.stages):
            _check_stage(index, stage, len(self.stages))
        self._check_reveals()

    def _check_reveals(self) -> None:
        """InvalidJob unless the graph is acyclic and every revealer an ancestor."""
        above = [0] * len(self.stages)  # sets of stages as bits
        for index in self.topological_order():
            for parent in self.stages[index].parents:
                above[index] |= above[parent] | 1 << parent
        for index, stage in enumerate(self.stages):
            if stage.revealed_by is not None and not above[index] >> stage.revealed_by & 1:
                raise InvalidJob(
                    f"stages[{index}].revealed_by: stages[{stage.revealed_by}] is no ancestor"
                )

    def topological_order(self) -> tuple[int, ...]:
        """Stage indices, parents before children; among the free ones the lowest index first.

        Raises
        ------
        InvalidJob
            if the graph has a cycle.
        """
        order = ordered({index: stage.parents for index, stage in enumerate(self.stages)})
        if len(order) < len(self.stages):
            stuck = min(set(range(len(self.stages))) - set(order))
            raise InvalidJob(f"stages[{stuck}].parents: the graph has a cycle")
        return tuple(order)

    def ancestors(self) -> tuple[frozenset[int], ...]:
        """Per stage, all stages that must complete before it can start.

        Raises
        ------
        InvalidJob
            if the graph has a cycle.
        """
        above: list[frozenset[int]] = [frozenset()] * len(self.stages)
        for index in self.topological_order():
            parents = self.stages[index].parents
            above[index] = frozenset(parents).union(*(above[parent] for parent in parents))
        return tuple(above)

    def canonical_names(self) -> tuple[str, ...]:
        """``name#occurrence`` of every stage, the identity by which jobs are compared.

        A name never depends on what may still be hidden when its stage becomes known. So the
        occurrences (from 1) count only stages that are then known for certain: those known at
        arrival, or revealed by the stage's own revealer or by one of that revealer's ancestors.
        What becomes known together is counted in the topological order of the graph that is then
        seen, where hidden parents are stood for by what reveals them. Where two revealers run side
        by side, neither may count what the other reveals; there the revealer itself is appended,
        as in ``search#1@plan#2``.
        """
        order, ancestors = self.topological_order(), self.ancestors()
        batches: dict[int | None, list[int]] = {}
        for index, stage in enumerate(self.stages):
            batches.setdefault(stage.revealed_by, []).append(index)
        names = [""] * len(self.stages)
        suffix: dict[int | None, str] = {None: ""}
        for revealer in sorted(batches, key=lambda r: -1 if r is None else len(ancestors[r])):
            known: list[int] = []
            if revealer is not None:
                earlier = {None, *ancestors[revealer]}
                known = [index for index in order if self.stages[index].revealed_by in earlier]
                beside = self._runs_beside(revealer, known, ancestors[revealer])
                branch = suffix[self.stages[revealer].revealed_by]
                suffix[revealer] = f"@{names[revealer]}" if beside else branch
            seen = Counter(self.stages[index].name for index in known)
            for index in self._in_seen_order(batches[revealer], known):
                name = self.stages[index].name
                seen[name] += 1
                names[index] = f"{name}#{seen[name]}{suffix[revealer]}"
        return tuple(names)

    def _in_seen_order(self, batch: Sequence[int], known: Sequence[int]) -> list[int]:
        """Stages that become known together, in the order in which those of a name are counted."""
        if len({self.stages[index].name for index in batch}) == len(batch):
            return list(batch)  # there is nothing to count
        together, visible, seen = set(batch), {*batch, *known}, {}
        for index in sorted(visible):
            stage = self.stages[index]
            seen[index] = {self._nearest(visible, parent) for parent in stage.parents}
            if stage.revealed_by is not None:  # all between may be hidden
                seen[index].add(stage.revealed_by)
        return [index for index in ordered(seen) if index in together]

    def _runs_beside(self, revealer: int, known: Sequence[int], before: Set[int]) -> bool:
        """Whether a known stage neither precedes the revealer nor is known to wait for it."""
        visible = set(known)
        below = {revealer}
        for index in known:
            if index in before or index == revealer:
                continue
            if below.isdisjoint(self._nearest(visible, p) for p in self.stages[index].parents):
                return True
            below.add(index)
        return False

    def _nearest(self, visible: Set[int], index: int) -> int:
        """The stage itself if visible, or else the nearest visible one its reveal waits for."""
        while index not in visible:
            revealer = self.stages[index].revealed_by
            assert revealer is not None  # what has none is known at arrival
            index = revealer
        return index

    def tasks(self) -> Iterator[Task]:
        """All tasks, stage by stage."""
        for stage in self.stages:
            yield from stage.tasks


def ordered(parents: Mapping[int, Collection[int]]) -> list[int]:
    """Topological order of a graph, the lowest free number first; what is in a cycle is left out.

    ``parents`` are those of each number, in rising order.
    """
    waiting = {index: len(row) for index, row in parents.items()}
    children: dict[int, list[int]] = {index: [] for index in parents}
    for index, row in parents.items():
        for parent in row:
            children[parent].append(index)
    order: list[int] = []
    free = [index for index, count in waiting.items() if count == 0]
    heapify(free)
    while free:
        index = heappop(free)
        order.append(index)
        for child in children[index]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heappush(free, child)
    return order


def _check_stage(index: int, stage: Stage, count: int) -> None:
    where = f"stages[{index}]"
    if not isinstance(stage, Stage):
        raise InvalidJob(f"{where}: {shown(stage)} is not a Stage")
    if stage.name == "" or (isinstance(stage.name, str) and "#" in stage.name):
        raise InvalidJob(f'{where}.name: {shown(stage.name)} is empty or contains "#"')
    for name in ("name", "resource"):
        value = getattr(stage, name)
        if (fault := fault_of_name(value)) and not (name == "resource" and not value):
            raise InvalidJob(f"{where}.{name}: {fault}")
    if isinstance(stage.kind, bool) or stage.kind not in (Kind.LLM, Kind.REGULAR):
        raise InvalidJob(f"{where}.kind: {shown(stage.kind)} is neither LLM nor REGULAR")
    if not stage.tasks:
        raise InvalidJob(f"{where}.tasks: a stage needs at least one task")
    for number, task in enumerate(stage.tasks):
        _check_task(where, number, stage.kind, task)
    for parent in stage.parents:
        _check_index(f"{where}.parents", parent, count)
    if len(set(stage.parents)) < len(stage.parents):
        twice = next(p for p, times in Counter(stage.parents).items() if times > 1)
        raise InvalidJob(f"{where}.parents: names stages[{twice}] twice")
    if stage.revealed_by is not None:
        _check_index(f"{where}.revealed_by", stage.revealed_by, count)


def _check_index(where: str, index: int, count: int) -> None:
    if not is_whole(index, 0, count - 1):
        raise InvalidJob(f"{where}: stages[{shown(index)}] does not exist")


def _check_task(where: str, number: int, kind: Kind, task: Task) -> None:
    if isinstance(task, LLMTask):
        fault = _fault_of_calls(kind, task)
    elif isinstance(task, RegularTask):
        fault = _fault_of_tools(kind, task)
    else:
        fault = f": {shown(task)} is neither an LLMTask nor a RegularTask"
    if fault:
        raise InvalidJob(f"{where}.tasks[{number}]{fault}")


def _fault_of_calls(kind: Kind, task: LLMTask) -> str | None:
    if kind != Kind.LLM:
        return f": an LLM task in a stage of kind {Kind(kind).name}"
    for name in ("prompt_tokens", "output_tokens"):
        tokens = getattr(task, name)
        if not is_whole(tokens, 1, MAX_TOKENS):
            why = f"between 1 and {MAX_TOKENS}" if is_whole(tokens) else "a whole number"
            return f".{name}: {shown(tokens)} is not {why}"
    return None


def _fault_of_tools(kind: Kind, task: RegularTask) -> str | None:
    if kind != Kind.REGULAR:
        return f": a regular task in a stage of kind {Kind(kind).name}"
    if not is_number(task.duration_s, 0, MAX_DURATION_S):
        value = shown(task.duration_s)
        return f".duration_s: {value} is not a time in seconds, 0 to {MAX_DURATION_S:g}"
    return None
