"""The graph of a job as it is seen at a moment, and where its nodes are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.workload.job import Kind
from llmsched_gym.workload.template import TemplateTable


class Status(IntEnum):
    """What a stage does; a placeholder stands for what an unfinished stage may reveal."""

    DONE = 0
    RUNNING = 1
    READY = 2
    WAITING = 3
    PLACEHOLDER = 4


@dataclass(frozen=True)
class Node:
    """A stage of a job, or a placeholder.

    Attributes
    ----------
    stage : its number in the job; of a placeholder, the stage that fills it.
    status : what it does.
    kind : what it runs on, ``Kind.DYNAMIC`` for a placeholder.
    tasks, started, completed : numbers of tasks, 0 for a placeholder.
    """

    stage: int
    status: Status
    kind: Kind
    tasks: int = 0
    started: int = 0
    completed: int = 0


@dataclass(frozen=True, eq=False)
class JobGraph:
    """What is seen of a job: its visible stages, complete ones too, and placeholders.

    Attributes
    ----------
    job : the job.
    nodes : of which the edges are pairs of numbers.
    edges : (parent, child). What waits for something hidden hangs on what reveals that.
    places : int64 [nodes, 2], column and row of each: columns by the longest way from a root.
    """

    job: int
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    places: NDArray[np.int64]

    @property
    def size(self) -> tuple[int, int]:
        """Columns, and rows of the fullest of them."""
        columns, rows = self.places.max(axis=0, initial=0) + 1
        return int(columns), int(rows)


def job_graph(state: ClusterState, templates: TemplateTable, job: int) -> JobGraph:
    """The graph of job ``job`` now; before its arrival it has no nodes.

    Placeholders and what waits for them are those of the observation: past jobs tell them.
    """
    first = int(state.jobs["first_stage"][job])
    stages = state.stages[first : first + int(state.jobs["num_stages"][job])]
    parents = {
        number: {parent - first for parent in _seen_parents(state, first + number)}
        for number in np.flatnonzero(stages["visible"]).tolist()
    }
    nodes: list[Node] = []
    row_of: dict[int, int] = {}
    filled_by: dict[int, int] = {}  # canonical stage to the row of the placeholder hung on it
    edges: set[tuple[int, int]] = set()
    for number in _in_order(parents):
        row = row_of[number] = len(nodes)
        nodes.append(_node(stages[number], number))
        edges |= {(row_of[parent], row) for parent in parents[number]}
        if nodes[row].status == Status.DONE:
            continue
        canonical = int(stages["canonical"][number])
        waits = _of(templates.awaits_of, templates.awaits, canonical)
        edges |= {(filled_by[one], row) for one in waits if one in filled_by}
        if _of(templates.reveals_of, templates.reveals, canonical):
            filled_by[canonical] = row + 1
            nodes.append(Node(number, Status.PLACEHOLDER, Kind.DYNAMIC))
            edges.add((row, row + 1))
    ordered = tuple(sorted(edges))
    return JobGraph(job, tuple(nodes), ordered, _places(len(nodes), ordered))


def _in_order(parents: dict[int, set[int]]) -> list[int]:
    """The stages in topological order, ties by number."""
    left = {stage: len(before) for stage, before in parents.items()}
    children: dict[int, list[int]] = {stage: [] for stage in parents}
    for stage, before in parents.items():
        for parent in before:
            children[parent].append(stage)
    free = [stage for stage, waits in left.items() if not waits]  # ascending: a heap
    order = []
    while free:
        order.append(heappop(free))
        for child in children[order[-1]]:
            left[child] -= 1
            if not left[child]:
                heappush(free, child)
    return order


def _node(stage: np.void, number: int) -> Node:
    tasks, started = int(stage["num_tasks"]), int(stage["started_tasks"])
    completed = int(stage["completed_tasks"])
    if completed == tasks:
        status = Status.DONE
    elif started > completed:
        status = Status.RUNNING
    else:
        status = Status.WAITING if stage["unfinished_parents"] else Status.READY
    return Node(number, status, Kind(int(stage["kind"])), tasks, started, completed)


def _seen_parents(state: ClusterState, stage: int) -> set[int]:
    """The visible stages it waits or waited for: of hidden ones, who reveals them."""
    found = set()
    for parent in state.parents[state.parents_of[stage] : state.parents_of[stage + 1]].tolist():
        while not state.stages["visible"][parent]:
            parent = int(state.stages["revealed_by"][parent])
        found.add(parent)
    return found


def _of(starts: NDArray[np.int64], members: NDArray[np.int64], row: int) -> list[int]:
    """A row of compressed rows; row -1 is empty."""
    return [] if row < 0 else members[starts[row] : starts[row + 1]].tolist()


def _places(count: int, edges: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    """Columns by the longest way from a root, rows in order within each: int64 [count, 2].

    All edges lead from lower to higher nodes, and are sorted.
    """
    places = np.zeros((count, 2), np.int64)
    column = [0] * count
    for parent, child in edges:
        column[child] = max(column[child], column[parent] + 1)
    filled = [0] * (count + 1)
    for node, place in enumerate(column):
        places[node] = place, filled[place]
        filled[place] += 1
    return places
